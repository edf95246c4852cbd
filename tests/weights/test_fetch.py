"""What a fetch guarantees, against a server that misbehaves."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from resharp.errors import (
    ChecksumError,
    DownloadError,
    OfflineError,
    OptionError,
    OutputError,
)
from resharp.weights import ModelEntry, fetch, verify
from tests.waiting import LIMIT
from tests.weights.conftest import BODY, left, tiny
from tests.weights.server import (
    Answer,
    Server,
    corrupt,
    cut,
    cut_unannounced,
    half_then_gate,
    hang,
    other,
    redirect,
    status,
)

SHA256 = hashlib.sha256(BODY).hexdigest()


def quick(entry: ModelEntry, folder: Path, **options: object) -> Path:
    """A fetch that waits for an answer as long as it takes, and not between attempts."""
    return fetch(entry, folder, **{"backoff": 0.01, "timeout": LIMIT, **options})  # type: ignore[arg-type]


def test_fetches_once(server: Server, entry: ModelEntry, tmp_path: Path) -> None:
    path = quick(entry, tmp_path)
    assert path == tmp_path / "tiny.pth"
    assert path.read_bytes() == BODY
    assert left(tmp_path) == ["tiny.pth"]
    assert quick(entry, tmp_path) == path
    assert server.gets == ["/tiny.pth"]


def test_default_folder_is_home(entry: ModelEntry, tmp_path: Path) -> None:
    assert fetch(entry) == tmp_path / "home" / "weights" / "tiny.pth"


@pytest.mark.parametrize("found", [b"", BODY[:1000], BODY[:-1] + b"x"])
def test_damaged_file_is_replaced(entry: ModelEntry, tmp_path: Path, found: bytes) -> None:
    (tmp_path / "tiny.pth").write_bytes(found)
    assert quick(entry, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("answer", [cut, cut_unannounced, status(500), status(503), status(429)])
def test_passing_failure_is_retried(
    server: Server, entry: ModelEntry, tmp_path: Path, answer: Answer
) -> None:
    server.plans["tiny.pth"] = [answer, answer]
    assert quick(entry, tmp_path).read_bytes() == BODY
    assert len(server.gets) == 3


@pytest.mark.parametrize(
    ("answer", "gets", "message"),
    [
        (cut, 2, "2 attempts"),
        (cut_unannounced, 2, "ended early, after 350000 of 700000 bytes"),
        (status(500), 2, "HTTP 500 Internal Server Error"),
        (status(404), 1, "HTTP 404 Not Found"),
        (status(403), 1, "HTTP 403 Forbidden"),
    ],
)
def test_lasting_failure_leaves_nothing(
    server: Server, entry: ModelEntry, tmp_path: Path, answer: Answer, gets: int, message: str
) -> None:
    server.plans["tiny.pth"] = [answer] * 9
    with pytest.raises(DownloadError, match=message) as caught:
        quick(entry, tmp_path, attempts=2)
    assert entry.urls[0] in str(caught.value)
    assert len(server.gets) == gets
    assert left(tmp_path) == []


def test_failure_keeps_what_was_there(server: Server, entry: ModelEntry, tmp_path: Path) -> None:
    (tmp_path / "tiny.pth").write_bytes(b"old")
    server.plans["tiny.pth"] = [corrupt]
    with pytest.raises(ChecksumError):
        quick(entry, tmp_path)
    assert (tmp_path / "tiny.pth").read_bytes() == b"old"


def test_wrong_bytes_are_named(server: Server, entry: ModelEntry, tmp_path: Path) -> None:
    server.plans["tiny.pth"] = [corrupt]
    found = hashlib.sha256(BODY[:-1] + bytes([BODY[-1] ^ 1])).hexdigest()
    with pytest.raises(ChecksumError, match=f"expected sha256 {SHA256}, found {found}") as caught:
        quick(entry, tmp_path)
    assert "single public source" not in str(caught.value)
    assert left(tmp_path) == []
    assert len(server.gets) == 1


def test_single_source_hash_is_enforced(server: Server, tmp_path: Path) -> None:
    server.plans["tiny.pth"] = [corrupt]
    with pytest.raises(ChecksumError, match="single public source"):
        quick(tiny(server.url, hash_sources=1), tmp_path)


def test_another_size_is_refused_at_once(server: Server, entry: ModelEntry, tmp_path: Path) -> None:
    server.plans["tiny.pth"] = [other]
    done: list[int] = []
    with pytest.raises(ChecksumError, match="expected 700000 bytes, found 26"):
        quick(entry, tmp_path, progress=lambda now, total: done.append(now))
    assert done == []
    assert left(tmp_path) == []


def test_redirect_is_followed(server: Server, entry: ModelEntry, tmp_path: Path) -> None:
    server.plans["tiny.pth"] = [redirect(f"{server.url}/store/tiny.pth")]
    assert quick(entry, tmp_path).read_bytes() == BODY
    assert server.gets == ["/tiny.pth", "/store/tiny.pth"]


@pytest.mark.processes
@pytest.mark.parametrize("answer", [hang, half_then_gate])
def test_hanging_server_is_given_up(
    server: Server, entry: ModelEntry, tmp_path: Path, answer: Answer
) -> None:
    server.plans["tiny.pth"] = [answer] * 2
    with pytest.raises(DownloadError, match=r"no response within 0.2 s \(2 attempts\)"):
        quick(entry, tmp_path, timeout=0.2, attempts=2)
    assert left(tmp_path) == []


def test_nobody_listens(entry: ModelEntry, tmp_path: Path) -> None:
    away = tiny("http://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"127.0.0.1:1/tiny.pth: .*refused.*2 attempts"):
        quick(away, tmp_path, attempts=2)


def test_size_may_be_unknown(server: Server, tmp_path: Path) -> None:
    entry = tiny(server.url, bytes=None)
    assert quick(entry, tmp_path).read_bytes() == BODY
    (tmp_path / "tiny.pth").unlink()
    server.plans["tiny.pth"] = [cut_unannounced]
    with pytest.raises(ChecksumError, match="expected sha256"):
        quick(entry, tmp_path)


def test_mirror_comes_first(
    server: Server, entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(entry, tmp_path / "a", mirror=f"{server.url}/mirror/")
    monkeypatch.setenv("RESHARP_MIRROR", f"{server.url}/other")
    quick(entry, tmp_path / "b")
    quick(entry, tmp_path / "c", mirror="")
    assert server.gets == ["/mirror/tiny.pth", "/other/tiny.pth", "/tiny.pth"]


@pytest.mark.parametrize("answer", [status(404), corrupt, other])
def test_bad_mirror_is_passed_over(
    server: Server,
    entry: ModelEntry,
    tmp_path: Path,
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.plans["tiny.pth"] = [answer]
    with caplog.at_level(logging.WARNING):
        assert quick(entry, tmp_path, mirror=f"{server.url}/m").read_bytes() == BODY
    assert server.gets == ["/m/tiny.pth", "/tiny.pth"]
    assert f"{server.url}/m/tiny.pth failed" in caplog.text


def test_every_source_is_named_without_passwords(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = tiny(server.url, urls=(f"{server.url}/a/tiny.pth", f"{server.url}/b/tiny.pth"))
    server.plans["tiny.pth"] = [status(404), status(410), status(401)]
    mirror = server.url.replace("//", "//user:secret@")
    with pytest.raises(DownloadError) as caught:
        quick(entry, tmp_path, mirror=mirror)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "HTTP 404" in lines[1]
    assert "HTTP 410" in lines[2]
    assert "/b/tiny.pth: HTTP 401" in lines[3]
    assert "secret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize("mirror", ["no scheme", "http://", "file:///tmp", "http://[bad"])
def test_mirror_that_is_no_url(entry: ModelEntry, tmp_path: Path, mirror: str) -> None:
    assert quick(entry, tmp_path, mirror=mirror).read_bytes() == BODY


def test_proxy_of_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    path = quick(tiny("http://weights.invalid"), tmp_path)
    assert path.read_bytes() == BODY
    assert server.gets == ["http://weights.invalid/tiny.pth"]


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_offline_says_what_to_do(
    server: Server, entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RESHARP_OFFLINE", value)
    with pytest.raises(OfflineError) as caught:
        quick(entry, tmp_path)
    for part in (str(tmp_path / "tiny.pth"), SHA256, "700000", entry.urls[0], "does not exist"):
        assert part in str(caught.value)
    assert f"'resharp models fetch tiny' with `weights_dir`={tmp_path}," in str(caught.value)
    assert server.gets == []
    assert not any(tmp_path.iterdir())
    quick(entry, tmp_path, offline=False)
    assert quick(entry, tmp_path).read_bytes() == BODY


def test_offline_argument(
    entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESHARP_OFFLINE", "0")
    (tmp_path / "tiny.pth").write_bytes(b"damaged")
    with pytest.raises(OfflineError, match="is not the right file"):
        quick(entry, tmp_path, offline=True)
    assert (tmp_path / "tiny.pth").read_bytes() == b"damaged"


def test_unknown_hash_must_be_given(server: Server, tmp_path: Path) -> None:
    entry = tiny(server.url, sha256=None, bytes=None, hash_sources=0)
    with pytest.raises(OptionError, match=r"`sha256`=HASH"):
        quick(entry, tmp_path)
    with pytest.raises(OfflineError, match=r"unknown.*`sha256`=HASH"):
        quick(entry, tmp_path, offline=True)
    assert server.gets == []
    with pytest.raises(ChecksumError, match="expected sha256 0000"):
        quick(entry, tmp_path, sha256="0" * 64)
    assert left(tmp_path) == []
    quick(entry, tmp_path, sha256=SHA256.upper())
    assert (tmp_path / "tiny.pth.sha256").read_text() == f"{SHA256}  tiny.pth\n"
    server.gets.clear()
    quick(entry, tmp_path)  # the hash was kept
    assert server.gets == []
    (tmp_path / "tiny.pth").write_bytes(b"damaged")
    assert quick(entry, tmp_path).read_bytes() == BODY


def test_file_put_by_hand_is_taken_with_its_hash(server: Server, tmp_path: Path) -> None:
    entry = tiny(server.url, sha256=None, bytes=None, hash_sources=0)
    (tmp_path / "tiny.pth").write_bytes(BODY)
    quick(entry, tmp_path, sha256=SHA256, offline=True)
    assert server.gets == []
    assert (tmp_path / "tiny.pth.sha256").is_file()


@pytest.mark.parametrize(
    ("sha256", "message"), [("0" * 64, "must match the catalogue"), ("x", "64 hex")]
)
def test_hash_that_cannot_be_right(
    entry: ModelEntry, tmp_path: Path, sha256: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        quick(entry, tmp_path, sha256=sha256)


def test_progress_reaches_the_end(entry: ModelEntry, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quick(entry, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 2


@pytest.mark.parametrize(
    "error", [RuntimeError("stop"), OSError("stop"), DownloadError("stop"), KeyboardInterrupt()]
)
def test_progress_can_cancel(
    server: Server, entry: ModelEntry, tmp_path: Path, error: BaseException
) -> None:
    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        quick(entry, tmp_path, progress=stop)
    assert caught.value is error
    assert left(tmp_path) == []
    assert len(server.gets) == 1
    assert quick(entry, tmp_path).read_bytes() == BODY


def test_bar_needs_no_terminal(
    entry: ModelEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick(entry, tmp_path, progress=True).is_file()
    assert capsys.readouterr() == ("", "")


def test_folder_that_cannot_be_made(entry: ModelEntry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write to .*`weights_dir` or RESHARP_HOME"):
        quick(entry, tmp_path / "file" / "weights")


def test_full_disk(entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        quick(entry, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.processes
def test_many_threads_download_once(server: Server, entry: ModelEntry, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            quick(entry, tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(server.gets) == 1


def test_own_checkpoint_cannot_be_downloaded(tmp_path: Path) -> None:
    own = tiny("http://127.0.0.1:1", urls=(), file="local/tiny.pth")
    with pytest.raises(ChecksumError, match="is missing and tiny has no download URL"):
        quick(own, tmp_path)


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda path: None, "ok"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"short"), "damaged"),
        (lambda path: path.write_bytes(bytes(2504012)), "damaged"),
    ],
)
def test_verify_looks_at_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, state: str
) -> None:
    # The catalogue's own hash, for bytes made here: the digest is the only thing replaced.
    found = verify(["realesr-animevideov3"], tmp_path)[0]
    assert found.state == "missing"
    found.path.write_bytes(bytes(2504012 - 1) + b"x")
    monkeypatch.setattr("resharp.weights.state.sha256_of", lambda path: fake_digest(path))
    change(found.path)
    assert verify(["realesr-animevideov3"], tmp_path)[0].state == state
    assert len(verify(folder=tmp_path)) == 39


def fake_digest(path: Path) -> str:
    official = "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d"
    return official if path.read_bytes().endswith(b"x") else "0" * 64
