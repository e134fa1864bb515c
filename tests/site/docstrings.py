"""Docstrings are written for ``help()``; this is how they read on a page."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc):`~?([^`]+)`")
_LITERAL = re.compile(r"(?m)::$")


class Roles(griffe.Extension):
    """Turns reStructuredText's roles and literal blocks into Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute that is read."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """A docstring, in Markdown."""
    text = re.sub(r"(?m)^( *)::\n", r"\1\n", _ROLE.sub(r"`\1`", text))
    return _LITERAL.sub(":", text)
