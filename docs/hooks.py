"""mkdocs hooks: the parts of docs/reference that are made from the commands and the catalogue.

A page asks for a part with a line ``<!-- generated: NAME -->``. Building needs resharp's base
packages and no torch, onnxruntime or TensorRT.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from resharp.cli import main
from resharp.images import formats, transfer
from resharp.weights import ModelEntry, catalogue

CODE = re.compile(r"<code>([^<\n]{1,28})</code>")
ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
MARK = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
LINE = re.compile(r"\n(?!\n)")
RANGES = {
    r"x>=(\S+)": "at least {}",
    r"x>(\S+)": "above {}",
    r"(\S+)<=x<=(\S+)": "{} to {}",
}
ENGINES = Path(__file__).resolve().parents[1] / "resharp" / "engines"
TASKS = {
    "upscale": "Upscaling",
    "denoise": "Denoising",
    "artifacts": "JPEG artifact removal",
    "restoration": "Restoration",
    "face-restoration": "Faces",
    "face-detection": "Face detection",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the generated parts of a page (an mkdocs event)."""
    return MARK.sub(lambda mark: PARTS[mark[1]](), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Keep short code on one line (an mkdocs event): ``--json`` would break after its hyphens."""
    return CODE.sub(r'<code class="short">\1</code>', html)


def commands(
    command: click.Command = main, path: tuple[str, ...] = ("resharp",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every visible command below one, with its path, in the order of the help."""
    context = click.Context(command, info_name=" ".join(path))
    if path != ("resharp",):
        yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from commands(child, (*path, name))


def cli() -> str:
    """Every command: its help, usage, arguments and options, as Markdown."""
    sections = [_options(main, "resharp", "Options before the command name:")]
    sections += [_section(path, command) for path, command in commands()]
    return "\n\n".join(sections)


def _section(path: tuple[str, ...], command: click.Command) -> str:
    name = " ".join(path)
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f"{'#' * len(path)} {name}",
        _prose(command.help or ""),
        f"```text\n{name} {usage}\n```",
    ]
    parts.append(_options(command, name))
    return "\n\n".join(part for part in parts if part)


def _options(command: click.Command, name: str, title: str = "") -> str:
    rows = []
    context = click.Context(command, info_name=name)
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        if "--help" in parameter.opts:
            continue
        rows.append(f"| {_names(parameter, context)} | {_help(parameter, context)} |")
    if not rows:
        return ""
    return "\n".join(
        [*([title, ""] if title else []), "| option | effect |", "| --- | --- |", *rows]
    )


def _names(option: click.Option, context: click.Context) -> str:
    names = " ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag or option.count:
        return names
    return f"{names} `{option.make_metavar(context).removesuffix(' RANGE')}`"


def _help(option: click.Option, context: click.Context) -> str:
    text = _cell(" ".join((option.help or "").split()))
    extra = option.get_help_extra(context)
    notes = []
    if "default" in extra:
        notes.append(f"default: `{extra['default']}`")
    if "range" in extra:
        notes.append(_range(extra["range"]))
    if option.multiple:
        notes.append("may be repeated")
    if extra.get("required"):
        notes.append("required")
    return f"{text} *({'; '.join(notes)})*" if notes else text


def _range(text: str) -> str:
    """Say in words what click writes as ``x>=1`` or ``1<=x<=100``."""
    for form, words in RANGES.items():
        if found := re.fullmatch(form, text):
            return words.format(*found.groups())
    return f"range: `{text}`"


def _prose(text: str) -> str:
    """Turn a command's help into Markdown: paragraphs that click leaves as they are become code."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith("\b"):
            lines = block.removeprefix("\b").strip("\n")
            blocks.append(f"```text\n{lines}\n```")
        else:
            blocks.append(LINE.sub(" ", block.strip()).replace("<", "&lt;"))
    return "\n\n".join(blocks)


def models() -> str:
    """The catalogue as one table for each task, and the limits of use below it."""
    entries = list(catalogue().values())
    terms = dict.fromkeys(entry.terms for entry in entries if entry.terms)
    notes = {text: number for number, text in enumerate(terms, start=1)}
    parts = []
    for task, title in TASKS.items():
        rows = [_row(entry, notes) for entry in entries if entry.task == task]
        if rows:
            head = [
                "| model | architecture | scale | size | license |",
                "| --- | --- | --- | --- | --- |",
            ]
            parts.append("\n".join([f"### {title}", "", *head, *rows]))
    parts.append("### Limits of use")
    parts += [f"**[{number}]** {text}" for text, number in notes.items()]
    return "\n\n".join(parts)


def _row(entry: ModelEntry, notes: dict[str, int]) -> str:
    size = f"{entry.bytes / 1e6:.1f}\N{NO-BREAK SPACE}MB" if entry.bytes else "-"
    terms = f" [\\[{notes[entry.terms]}\\]](#limits-of-use)" if entry.terms else ""
    note = " [^hash]" if entry.sha256 is None else ""
    name = f"`{entry.name}`{note}<br>{_cell(entry.title)}"
    cells = (name, entry.architecture, f"x{entry.scale}", size, f"`{entry.license}`{terms}")
    return f"| {' | '.join(cells)} |"


def fields(module: str, *classes: str) -> str:
    """A table of the fields of each dataclass, read from the source of a module of engines/."""
    tree = ast.parse((ENGINES / f"{module}.py").read_text(encoding="utf-8"))
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return "\n\n".join(_fields(found[name]) for name in classes)


def _fields(node: ast.ClassDef) -> str:
    rows = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = _inline(str(after.value.value))
        kind = ast.unparse(field.annotation)
        default = "" if field.value is None else _default(field.value)
        rows.append(f"| `{ast.unparse(field.target)}` | `{kind}`{default} | {text} |")
    head = ["| field | type, default | meaning |", "| --- | --- | --- |"]
    return "\n".join(
        [f"### {node.name}", "", _inline(ast.get_docstring(node) or ""), "", *head, *rows]
    )


def _default(value: ast.expr) -> str:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        stated = [one.value for one in value.keywords if one.arg == "default"]
        return f", `{ast.unparse(stated[0])}`" if stated else ""
    return f", `{ast.unparse(value)}`"


def _inline(docstring: str) -> str:
    """The first paragraph of a docstring as one line of Markdown."""
    text = " ".join(docstring.split("\n\n")[0].split())
    return _cell(ROLE.sub(r"`\1`", text).replace("``", "`"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


KINDS = {
    "exif": "EXIF",
    "maker_notes": "maker notes [^maker]",
    "icc": "ICC profile [^icc]",
    "xmp": "XMP",
    "photoshop": "IPTC, Photoshop data",
    "text": "comments and texts [^text]",
    "density": "resolution [^density]",
    "color": "colors without a profile [^color]",
    "gain_map": "gain map [^gain]",
    "own": "PNG data of other programs [^own]",
    "alpha": "transparency",
    "deep": "16 bits",
    "float": "floating point",
    "thumbnail": "thumbnail",
    "frames": "frames and pages [^frames]",
}
WAYS = {"exif": "in EXIF", "icc": "as ICC profile", "srgb": "as sRGB*", "white": "on white*"}
WAYS |= {"8 bits": "as 8 bits*", "12 bits": "as 12 bits*", "16 bits": "as 16 bits*"}
WAYS |= {"note": "no*"}


def kept() -> str:
    """What each format holds and keeps, from the tables that reading and writing use."""
    outputs = [form for form in formats.FORMATS if form.writes]
    head = ["", *(form.label for form in outputs)]
    rows = [head, ["---"] * len(head)]
    for kind in transfer.KINDS:
        sources = [form.label for form in formats.FORMATS if kind in form.holds]
        missing = [form.label for form in formats.FORMATS if kind not in form.holds]
        found = ", ".join(sources)
        if len(missing) < 3:
            found = f"all but {', '.join(missing)}" if missing else "all"
        ways = [transfer.way(kind, form) for form in outputs]
        cell = f"{KINDS[kind]}<br><small>{found}</small>"
        rows.append([cell, *(WAYS.get(one, one) for one in ways)])
    quality = [str(form.quality) if form.quality else "lossless" for form in outputs]
    sides = [f"{form.max_side:,}".replace(",", "\N{NO-BREAK SPACE}") for form in outputs]
    sides = [
        "any" if form.max_side == 2**31 - 1 else side
        for form, side in zip(outputs, sides, strict=True)
    ]
    rows += [["default quality", *quality], ["largest side in pixels", *sides]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


PARTS: dict[str, Callable[[], str]] = {
    "cli": cli,
    "models": models,
    "kept": kept,
    "manifest": partial(
        fields,
        "manifest",
        *("Manifest", "File", "Source", "DniPartner", "GraphParity", "ExtraInput", "Tuning"),
    ),
    "sidecar": partial(fields, "engine", "Engine", "EngineSpec", "Profile", "ParityResult"),
}
