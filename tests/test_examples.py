"""The examples run, and do what their first lines say."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest

from resharp import Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, in an empty folder."""
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == code, done.stderr
    return done


def test_the_service_restores_what_is_posted(compact: Bundle) -> None:
    found = runpy.run_path(str(EXAMPLES / "service.py"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), found["Handler"])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        image = draw(20, 24)
        data = cv2.imencode(".png", image)[1].tobytes()
        address = f"http://127.0.0.1:{server.server_port}"
        with urlopen(Request(address, data)) as answer:
            assert answer.headers["Content-Type"] == "image/png"
            restored = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)
        with Upscaler() as upscaler:
            np.testing.assert_array_equal(restored, upscaler(image))
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(address, b"not an image"))
        assert refused.value.code == 400
        assert refused.value.read().startswith(b"invalid-image: ")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        found["upscaler"].close()
    source = (EXAMPLES / "service.py").read_text(encoding="utf-8")
    body = source.split('"""', 2)[2].split("if __name__")[0]
    lines = [line for line in body.splitlines() if line.strip() and '"""' not in line]
    assert len(lines) <= 20, "the docs promise a service in twenty lines"


def test_the_batch_job_reports_and_fails_with_its_images() -> None:
    Path("in").mkdir()
    assert cv2.imwrite("in/a.png", draw(12, 16))
    Path("in/b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"broken")
    done = run("batch_job.py", "in", "out", "report.json", code=1)
    assert "in/b.png: " in done.stderr.replace(os.sep, "/")
    assert "1 restored, 1 failed" in done.stdout
    assert sorted(path.name for path in Path("out").glob("*.webp")) == ["a.webp"]
    report = json.loads(Path("report.json").read_text())
    assert [one["status"] for one in report["results"]] == ["restored", "failed"]


def test_a_progress_bar_of_ones_own() -> None:
    assert cv2.imwrite("photo.png", draw(100, 120))
    done = run("progress_bar.py", "photo.png", "large.png")
    assert done.stderr.count(" s left") > 4
    assert "100%" in done.stderr
    large = cv2.imread("large.png")
    assert large is not None
    assert large.shape == (400, 480, 3)
    assert "cannot read" in run("progress_bar.py", "none.png", "large.png", code=1).stderr


@pytest.mark.slow
def test_an_architecture_of_ones_own_is_exported_and_runs() -> None:
    done = run("own_architecture.py")
    assert "(96, 128, 3) with onnx" in done.stdout
    with Upscaler("my-network", backend="onnx") as upscaler:
        assert upscaler.manifest.architecture == "MyNetwork"
        assert upscaler(draw(9, 11)).shape == (18, 22, 3)
