"""Bring a checkpoint into the folder of weights, whole and verified, or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resharp.errors import ChecksumError, OfflineError, OptionError
from resharp.fsutil import commit_file
from resharp.optional import require
from resharp.paths import weights_folder
from resharp.types import Progress
from resharp.weights.download import CancelledError, Wanted, download, redact
from resharp.weights.entry import ModelEntry, check_sha256
from resharp.weights.files import sweep, writing
from resharp.weights.state import inspect, promised, recorded

MIRROR = "RESHARP_MIRROR"
OFFLINE = "RESHARP_OFFLINE"

logger = logging.getLogger(__name__)


def fetch(
    entry: ModelEntry,
    folder: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    mirror: str | None = None,
    offline: bool | None = None,
    progress: bool | Progress = False,
    timeout: float = 30.0,
    attempts: int = 3,
    backoff: float = 1.0,
) -> Path:
    """Return the path of the entry's file, downloading it where it is not there or damaged.

    Args:
        entry: what to fetch.
        folder: folder of weights; None: the default one.
        sha256: hash to enforce where the entry has none; kept beside the file.
        mirror: base URL to try before the official ones, as ``<mirror>/<file>``; None:
            ``RESHARP_MIRROR``; empty: no mirror.
        offline: whether downloads are forbidden; None: ``RESHARP_OFFLINE``.
        progress: True for a bar on a terminal's standard error, or a callable that gets bytes done
            and bytes in all; what it raises cancels the download.
        timeout: seconds without an answer or a byte before an attempt counts as failed.
        attempts: attempts for each source where the failure may pass.
        backoff: seconds before the second attempt; doubled each time.

    Raises:
        OptionError: the hash is not known and not given, or another than the catalogue's is given.
        OfflineError: the file is needed and offline mode is on; says what to put where.
        ChecksumError: a source gave other bytes, or a file of the user's own is damaged.
        DownloadError: no source worked; names each one.
        OutputError: the folder cannot be written to. After any error, nothing new is there.
    """
    place = weights_folder(folder)
    path = place / entry.file
    sweep(place)
    known = _enforced(entry, place, sha256)
    if known is not None and inspect(entry, place, sha256=known).state == "ok":
        _record(entry, place, known)
        return path
    if not entry.urls:
        raise _not_ours(entry, place)
    if _offline(offline):
        raise _forbidden(entry, place, known)
    if known is None:
        raise OptionError(
            f"the hash of {entry.name} is not known here, so it cannot be checked: pass the "
            f"SHA-256 that you trust, as in 'resharp weights fetch {entry.name} --sha256 HASH'"
        )
    wanted = Wanted(
        entry=entry, sha256=known, timeout=timeout, attempts=max(1, attempts), backoff=backoff
    )
    try:
        with writing(place, entry.file) as part:
            # Whoever had the lock before us may have brought it.
            if inspect(entry, place, sha256=known).state != "ok":
                with _reporting(progress, entry) as report:
                    download(_sources(entry, mirror), part, wanted, report)
                commit_file(part, path)
    except CancelledError as error:
        raise error.reason from error.reason.__cause__
    _record(entry, place, known)
    return path


def _enforced(entry: ModelEntry, place: Path, sha256: str | None) -> str | None:
    if sha256 is None:
        return promised(entry, place)
    try:
        given = check_sha256(sha256)
    except ValueError as error:
        raise OptionError(str(error)) from error
    if entry.sha256 is not None and entry.sha256 != given:
        raise OptionError(
            f"the catalogue says that {entry.name} has sha256 {entry.sha256}, not {given}: leave "
            "--sha256 out, or import your file under another name ('resharp weights import')"
        )
    return given


def _record(entry: ModelEntry, place: Path, sha256: str) -> None:
    """Keep a hash that only the user knows, so that ``verify`` can use it later."""
    if entry.sha256 is not None or promised(entry, place) == sha256:
        return
    path = recorded(entry, place)
    try:
        with writing(place, path.name) as part:
            part.write_text(f"{sha256}  {entry.file}\n", encoding="ascii")
            commit_file(part, path)
    except OSError as error:  # the file itself is there and right
        logger.warning("cannot keep the hash of %s: %s", entry.name, error)


def _sources(entry: ModelEntry, mirror: str | None) -> list[str]:
    base = os.environ.get(MIRROR, "") if mirror is None else mirror
    first = [f"{base.rstrip('/')}/{entry.file}"] if base else []
    return first + list(entry.urls)


def _offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


def _forbidden(entry: ModelEntry, place: Path, sha256: str | None) -> OfflineError:
    path = place / entry.file
    there = inspect(entry, place, sha256=sha256, quick=True).state != "missing"
    problem = "the file there is not the right one" if there else "it is not there"
    size = f"{entry.bytes} bytes, " if entry.bytes else ""
    option = "" if entry.sha256 else f" --sha256 {sha256 or 'HASH'}"
    return OfflineError(
        f"{entry.name} is needed as {path}, {problem}, and offline mode forbids the download. "
        f"Put {entry.file} ({size}sha256 {sha256 or 'not known here'}) there, "
        f"from {redact(entry.urls[0])}, or run, without {OFFLINE} and --offline: "
        f"resharp weights fetch {entry.name}{option} --weights {place}"
    )


def _not_ours(entry: ModelEntry, place: Path) -> ChecksumError:
    report = inspect(entry, place)
    detail = f" ({report.detail})" if report.detail else ""
    return ChecksumError(
        f"{report.path} is {report.state}{detail} and {entry.name} has no address to download it "
        f"from: 'resharp weights import FILE `name` {entry.name} --force' brings it back"
    )


@contextmanager
def _reporting(progress: bool | Progress, entry: ModelEntry) -> Iterator[Progress]:
    if progress is not True:
        yield progress or (lambda done, total: None)
    else:
        tqdm = require("tqdm", feature="The progress bar", extra="")
        # disable=None: no bar where standard error is not a terminal.
        with tqdm.tqdm(
            desc=entry.file, total=entry.bytes, unit="B", unit_scale=True, disable=None
        ) as bar:

            def show(done: float, total: float) -> None:
                bar.total = total or None
                bar.update(done - bar.n)

            yield show
