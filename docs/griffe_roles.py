"""Griffe extension: Sphinx roles in docstrings (``:class:`~resharp.Upscaler```) become Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:py:)?(?:attr|class|data|exc|func|meth|mod|obj):`(~?)([^`]+)`")


def markdown(text: str) -> str:
    """Return the text with each role as code, by its last name where the role has a tilde."""
    return ROLE.sub(lambda m: f"`{m[2].rpartition('.')[2] if m[1] else m[2]}`", text)


class Roles(griffe.Extension):  # type: ignore[misc]
    """Rewrite the docstring of every object as it is collected."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
