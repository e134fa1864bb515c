"""The pages of the reference are what the code says."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pkgutil import resolve_name

import pytest

import langchain_convsync
from langchain_convsync import errors
from tests.pages import DOCS, ROOT
from tests.site.docstrings import markdown
from tests.site.generated import GENERATED

SHOWN = [
    name
    for path in sorted(DOCS.glob("reference/api/*.md"))
    for name in re.findall(r"^::: ([\w.]+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    """`make docs` renews it."""
    assert (ROOT / name).read_text(encoding="utf-8") == GENERATED[name]()


def test_every_public_name_is_explained_once() -> None:
    """And nothing that is not public."""
    public = {
        f"langchain_convsync{module}.{name}"
        for module in (
            *("", ".waha", ".testing", ".middleware", ".app", ".contents", ".workbench"),
        )
        for name in import_module(f"langchain_convsync{module}").__all__
        if name not in {"__version__", "waha", "Reason", "Groups"}
    } - {"langchain_convsync.app.create_app"}
    raised = {name for name in public if is_error(resolve_name(name.replace("sync.", "sync:", 1)))}
    expected = (public - raised) | {"langchain_convsync.errors", "langchain_convsync.dedup.Claim"}

    assert raised == {
        f"langchain_convsync.{name}" for name, _ in inspect.getmembers(errors, is_error)
    }
    assert sorted(SHOWN) == sorted(expected)


def is_error(named: object) -> bool:
    """Whether it is one of the errors that the page of errors shows together."""
    return inspect.isclass(named) and issubclass(named, langchain_convsync.ConvSyncError)


def test_a_docstring_reads_as_markdown() -> None:
    """Roles are code, and what introduces a block ends in one colon."""
    assert markdown("A :class:`~a.B` runs::\n\n    code") == "A `a.B` runs:\n\n    code"
    assert markdown("Runs.\n\n::\n\n    code") == "Runs.\n\n\n\n    code"
