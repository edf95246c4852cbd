"""The reference names everything there is: options, errors, variables, models, Python names."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Iterator
from typing import Any

import click
import pytest

import resharp
from resharp import errors, types
from resharp.cli import main
from resharp.weights import catalogue
from tests.docs.blocks import ROOT, blocks, pages

REFERENCE = ROOT / "docs" / "reference"
ERRORS = [
    one
    for _, one in inspect.getmembers(errors, inspect.isclass)
    if issubclass(one, errors.ResharpError)
]


@pytest.fixture(scope="module")
def hooks() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "hooks.py"))


def text_of(page: str) -> str:
    return (REFERENCE / page).read_text(encoding="utf-8")


def visible(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            if not child.hidden:
                yield from visible(child, f"{path} {name}")


def test_every_option_of_every_command_is_in_the_reference(hooks: dict[str, Any]) -> None:
    page = hooks["on_page_markdown"](text_of("cli.md"))
    sections = re.split(r"^##+ ", page, flags=re.MULTILINE)
    by_title = {section.partition("\n")[0]: section for section in sections[1:]}
    for path, command in visible(main, "resharp"):
        section = page if path == "resharp" else by_title[path]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for name in parameter.opts:
                    assert f"`{name}`" in section, f"{path} {name}"
                assert parameter.help, f"{path} {parameter.name} has no help"


def test_every_model_of_the_catalogue_is_in_the_reference(hooks: dict[str, Any]) -> None:
    page = hooks["on_page_markdown"](text_of("models.md"))
    for entry in catalogue().values():
        assert f"| `{entry.name}`" in page
        assert entry.terms is None or entry.terms in page


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: one.__name__)
def test_every_error_code_has_a_section(error: type[errors.ResharpError]) -> None:
    page = text_of("errors.md")
    assert f"\n## {error.code}\n" in page
    assert f"| [`{error.code}`](#{error.code}) | `{error.__name__}` |" in page
    assert error("x").docs_url.endswith(f"/reference/errors/#{error.code}")


def test_every_section_of_errors_is_a_code() -> None:
    titles = re.findall(r"^## (.+)$", text_of("errors.md"), flags=re.MULTILINE)
    assert sorted(titles) == sorted({error.code for error in ERRORS})


@pytest.mark.parametrize("name", sorted(set(resharp.__all__) - {"__version__"}))
def test_every_public_name_is_in_the_reference(name: str) -> None:
    place = "types" if hasattr(types, name) else name  # types are shown all together
    assert f"\n::: resharp.{place}\n" in text_of("python.md")


def test_every_variable_of_resharp_is_in_the_reference() -> None:
    page = text_of("environment.md")
    for path in (ROOT / "resharp").rglob("*.py"):
        for name in re.findall(r"\bRESHARP_[A-Z_]+", path.read_text(encoding="utf-8")):
            assert f"`{name}`" in page, path


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language(page: str) -> None:
    blocks(page)


def test_the_table_of_kept_metadata_has_its_footnotes(hooks: dict[str, Any]) -> None:
    raw = (ROOT / "docs" / "how-to" / "images.md").read_text(encoding="utf-8")
    page = hooks["on_page_markdown"](raw)
    assert (
        "| IPTC, Photoshop data<br><small>PNG, JPEG, TIFF</small> | yes | yes | no* | yes |" in page
    )
    used = set(re.findall(r"\[\^(\w+)\](?!:)", page))
    assert used == set(re.findall(r"^\[\^(\w+)\]:", page, flags=re.MULTILINE)) != set()
