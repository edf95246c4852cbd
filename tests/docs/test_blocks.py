"""The test of the examples fails where an example is wrong."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from resharp.cli import main
from tests.docs.blocks import Block, blocks, commands, resharp_arguments
from tests.docs.run_page import run_python, run_shell
from tests.docs.test_examples import parse


def block(text: str, language: str = "sh") -> Block:
    return Block("page.md", 3, language, text, None)


def page(folder: Path, text: str) -> str:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_mark_is_directly_above_its_block_and_has_a_reason(tmp_path: Path) -> None:
    text = """
<!-- not run: needs a GPU -->
```sh
resharp doctor
```

<!-- not run: -->
```python
first
```

    ```python
    with indented:
        pass
    ```

```text
output
```
"""
    found = blocks(page(tmp_path, text))
    assert [(one.line, one.language, one.reason) for one in found] == [
        (3, "sh", "needs a GPU"),
        (8, "python", None),
        (12, "python", None),
    ]
    assert found[2].text == "with indented:\n    pass"


@pytest.mark.parametrize(
    "text", ["```\nx\n```\n", "```rust\nx\n```\n", "``` sh\nx\n```\n", "```sh\nx\n"]
)
def test_a_block_needs_a_language_and_an_end(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"page.md:1: (a|the) block"):
        blocks(page(tmp_path, text))


def test_commands_of_a_block() -> None:
    text = "# comment\nresharp upscale \\\n  'a b.png' -o out  # x4\nmkdir x && resharp doctor\n"
    assert commands(text) == [
        ["resharp", "upscale", "a b.png", "-o", "out"],
        ["mkdir", "x"],
        ["resharp", "doctor"],
    ]
    assert commands("$ resharp doctor\nresharp 0.1.0\n") == [["resharp", "doctor"]]
    assert resharp_arguments(["A=1", "export-engines", "x"]) == ["export-engines", "x"]
    assert resharp_arguments(["docker", "run"]) is None


def test_a_python_block_that_raises_fails_with_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_python(block("\n1 / 0", "python"), {})
    assert caught.traceback[-1].lineno + 1 == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resharp upscale absent.jpg -o out", "ended with 1"),
        ("resharp upscale absent.jpg --no-such-option", "ended with 2"),
        ("pip install resharp", "cannot run here: mark the block as not run"),
    ],
)
def test_a_command_that_fails_fails_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=words):
        run_shell(block(text))


@pytest.mark.parametrize(
    "arguments", [["upscail"], ["upscale", "--views", "8"], ["models", "list", "--jsn"]]
)
def test_an_unknown_command_or_option_is_found_without_running(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(main, arguments)
