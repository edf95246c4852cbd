"""Every example of the README and of docs/ runs, or says why it cannot.

Models that would be downloads have tiny stand-ins of the same name in the store of these tests.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pytest

from resharp.cli import main
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.models.archs.srvgg import SRVGGNetCompact
from tests.conftest import Kind, save_checkpoint
from tests.docs.blocks import PYTHON, ROOT, blocks, commands, pages, resharp_arguments
from tests.faces.test_faces import add_fidelity
from tests.waiting import LIMIT

STAND_INS = {
    "realesrgan-x4plus": "rrdb4",
    "realesr-general-x4v3": "rrdb4",
    "realesr-general-x4v3-dn0.3": "rrdb4",
}
"""Models that examples use, and the tiny network in place of each."""
FACES = ("codeformer", "gfpgan-v1.4")


@pytest.fixture(scope="module")
def template(tiny: dict[Kind, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that examples need: images, a video, checkpoints, a store."""
    folder = tmp_path_factory.mktemp("page")
    store = folder / "home" / "store"
    for name, kind in STAND_INS.items():
        shutil.copytree(tiny[kind].folder, store / name)
        manifest = store / name / "manifest.json"
        data = json.loads(manifest.read_text(encoding="utf-8"))
        manifest.write_text(json.dumps(data | {"name": name}), encoding="utf-8")
    for name in FACES:
        add_fidelity(store / name, name=name)
    image = draw(48, 64)
    assert cv2.imwrite(str(folder / "photo.jpg"), image)
    for album in (folder / "photos", folder / "holiday"):
        (album / "more").mkdir(parents=True)
        for name in ("a.jpg", "b.png", "more/c.png"):
            assert cv2.imwrite(str(album / name), image)
    assert cv2.imwrite(str(folder / "face512.png"), np.full((512, 512, 3), 90, np.uint8))
    smallest = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=4)  # soon exported
    for name in ("my-esrgan.pth", "RealESRGAN_x4plus.pth"):
        save_checkpoint(smallest, folder / name)
    try:
        from tests.video.kit import Spec, make
    except pytest.skip.Exception:  # no PyAV: the pages with video are skipped
        return folder
    make(folder / "clip.mp4", Spec(frames=12, size=(32, 24), sound=("aac",)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", pages())
def test_the_examples_run(page: str, template: Path, tmp_path: Path) -> None:
    text = "\n".join(block.text for block in blocks(page) if block.reason is None)
    if not text:
        return
    if "clip.mp4" in text and not (template / "clip.mp4").exists():
        pytest.skip("needs PyAV (pip install 'resharp[video]')")
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.run_page", page],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "RESHARP_HOME": str(tmp_path / "home"),
            "RESHARP_OFFLINE": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", pages())
def test_names_and_options_of_all_examples_exist(page: str) -> None:
    """Also in blocks that do not run: imports from resharp, and options of its commands."""
    for block in blocks(page):
        if block.language == PYTHON:
            for module, name in imported(block.text):
                found = importlib.import_module(module)
                assert hasattr(found, name), f"{block.place}: {module} has no {name}"
            continue
        for words in commands(block.text):
            arguments = resharp_arguments(words)
            if arguments is not None:
                try:
                    parse(main, arguments)
                except click.UsageError as error:
                    pytest.fail(f"{block.place}: `{' '.join(words)}`: {error.format_message()}")


def imported(text: str) -> list[tuple[str, str]]:
    """The names that a block takes from resharp, with their modules."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "resharp"
        for alias in node.names
        if node.module
    ]


def parse(command: click.Command, arguments: list[str]) -> None:
    """Parse arguments without converting values or running anything.

    Raises:
        UsageError: there is no such command or option.
    """
    context = click.Context(command, info_name=command.name)
    _, rest, _ = command.make_parser(context).parse_args(list(arguments))
    if isinstance(command, click.Group) and rest:
        child = command.get_command(context, rest[0])
        if child is None:
            raise click.UsageError(f"no such command {rest[0]!r}")
        parse(child, rest[1:])
