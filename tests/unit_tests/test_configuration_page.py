"""The page on configuration tells of every setting, with its default."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import langchain_convsync
from langchain_convsync import (
    ConvSyncClient,
    RedisEventStore,
    SQLiteEventStore,
    TurnRunner,
    WAHAReply,
    create_app,
)
from langchain_convsync.middleware import ConvSyncMiddleware
from tests.pages import page

PACKAGE = Path(langchain_convsync.__file__).parent
VARIABLES, _STORES, SETTINGS, _EXTRAS = re.findall(
    r"^\| --- .*\n((?:\| .*\n)+)", page("run/configuration"), re.MULTILINE
)
MAKERS = (
    TurnRunner,
    ConvSyncMiddleware,
    WAHAReply,
    create_app,
    ConvSyncClient,
    RedisEventStore,
    SQLiteEventStore,
)


def defaults(maker: Any) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(maker).parameters.items()}


def test_every_variable_is_told_and_no_other() -> None:
    """Who sets a variable that nothing reads waits for an effect in vain."""
    told = re.findall(r"^\| [^|]+ \| `(CONVSYNC_[A-Z_]+)` \|", VARIABLES, re.MULTILINE)
    sources = (path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    read = {name for source in sources for name in re.findall(r"CONVSYNC_[A-Z_]*[A-Z]", source)}

    assert sorted(told) == sorted(read)


def test_every_default_is_told_as_it_is() -> None:
    """Each setting is spelled as the call that changes nothing."""
    told = re.findall(r"`(\w+)\((\w+)=([^`]*)\)`", SETTINGS)
    there = {maker.__name__: defaults(maker) for maker in MAKERS}

    assert len(told) > 20
    assert {maker for maker, _, _ in told} == set(there)
    for maker, name, value in told:
        assert repr(there[maker][name]) == repr(ast.literal_eval(value)), (maker, name)


def test_every_limit_of_a_runner_is_told() -> None:
    """A limit that nobody knows of is found in an outage."""
    unset = (None, inspect.Parameter.empty)
    limits = {name for name, default in defaults(TurnRunner).items() if default not in unset}
    told = set(re.findall(r"`TurnRunner\((\w+)=", SETTINGS))

    assert limits - told == set()
