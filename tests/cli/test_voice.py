"""The words that users meet: help texts, and flags only where there are flags."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import resharp
from resharp import errors
from resharp.cli import COMMANDS, HIDDEN, MORE, main
from resharp.cli.wording import with_flags
from resharp.errors import DOCS_URL, OptionError, ResharpError

PACKAGE = Path(resharp.__file__).parent
LIBRARY = [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.parts]
FLAG = re.compile(r"(?<![\w-])--[a-z]")
HABITS = re.compile(
    r"(?i)\b(?:anew|so too|, say\b|with profit|for ever|makes no sense|resharp weights)\b"
)
"""Habits of an older text, which read as translated."""
COMMAND_LISTS = {"bench/bundle_provider.py", "training/__main__.py", "bench/machine_info.py"}
"""Modules that start processes with flags, or that are a command themselves."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its path, the groups included."""
    pending: list[tuple[str, click.Command]] = [("resharp", main)]
    while pending:
        path, command = pending.pop()
        yield path, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                pending.append((f"{path} {name}", found))


ALL = dict(commands())


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module, docstrings included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@pytest.mark.parametrize("path", ALL)
def test_every_help_text_is_a_sentence(path: str) -> None:
    command = ALL[path]
    texts = {"the command": (command.help or "").split("\n\n")[0].strip()}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            texts[parameter.opts[0]] = parameter.help or ""
    for name, text in texts.items():
        bare = re.sub(r"\s+\[env: \w+\]$", "", text)
        assert bare.endswith("."), f"{path}, {name}: {text!r} does not end with a period"
        assert not bare.startswith("Of "), f"{path}, {name}: {text!r} is a fragment"
        assert bare[0].isupper() or bare.startswith("auto"), f"{path}, {name}: {text!r}"
        assert not HABITS.search(bare), f"{path}, {name}: {text!r}"


def test_the_help_begins_with_the_everyday_commands_and_fits_a_screen() -> None:
    text = main.get_help(click.Context(main, info_name="resharp"))
    assert len(text.splitlines()) <= 30
    assert list(COMMANDS) == ["upscale", "video", "models", "engines", "doctor"]
    names = [*COMMANDS, *MORE]
    assert [
        line.split()[0]
        for line in text.splitlines()
        if line.split()[:1] and line.split()[0] in names
    ] == names
    assert not set(HIDDEN) & set(text.split())


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_names_arguments_and_no_flags(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    found = [
        f"line {line}: {text!r}"
        for line, text in strings(path)
        if HABITS.search(text) or (FLAG.search(text) and name not in COMMAND_LISTS)
    ]
    assert not found


def test_the_command_line_shows_arguments_as_flags() -> None:
    text = "`memory_fraction` must be in (0, 1], got 2; or choose another `dst`"
    assert with_flags(text) == ("--memory-fraction must be in (0, 1], got 2; or choose another -o")


def test_every_error_has_a_code_of_its_own_and_a_link() -> None:
    found = [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, ResharpError)
    ]
    codes = [one.code for one in found]
    assert len(set(codes)) == len(codes) == 20
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    assert OptionError("x").docs_url == f"{DOCS_URL}#invalid-option"


@pytest.mark.parametrize("path", ALL)
def test_no_help_shows_what_is_meant_for_the_program(path: str) -> None:
    command = ALL[path]
    text = command.get_help(click.Context(command, info_name=path))
    assert "\\" not in text
    assert "`" not in text
