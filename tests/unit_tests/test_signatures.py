"""Signatures are real at run time: what makes a tool or a route of a method can read it."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from types import FunctionType
from typing import Any, get_type_hints

import pytest
from langchain_core.tools import StructuredTool

import langchain_convsync
from langchain_convsync import (
    AsyncConvSyncClient,
    Conversation,
    ConvSyncClient,
    InboundEvent,
    Turn,
    TurnRunner,
)
from langchain_convsync._lazy import module_on_first_use
from langchain_convsync.testing import ReferenceServer
from tests.unit_tests.test_surface import python

PACKAGE = langchain_convsync.__name__
CUSTOMER = "+51999999999"


def public_modules() -> list[str]:
    """Every module that says what it exports."""
    found = pkgutil.walk_packages(langchain_convsync.__path__, f"{PACKAGE}.")
    names = [each.name for each in found if "._" not in each.name]
    return [each for each in [PACKAGE, *names] if hasattr(import_module(each), "__all__")]


def is_ours(value: Any) -> bool:
    """What a base class of somebody else's brings is theirs to annotate."""
    return bool(value.__module__.partition(".")[0] == PACKAGE)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The methods and getters of a class, as functions."""
    for name in dir(kind):
        found = inspect.getattr_static(kind, name)
        match found:
            case staticmethod() | classmethod():
                found = found.__func__
            case property():
                found = found.fget
            case cached_property():
                found = found.func
        public = not name.startswith("_") or name.endswith("__")
        if public and isinstance(found, FunctionType) and is_ours(found):
            yield name, found


def every_callable() -> dict[str, Any]:
    """Each exported function and class, and what can be called of it, once."""
    found: dict[int, tuple[str, Any]] = {}
    for module in map(import_module, public_modules()):
        for name in module.__all__:
            value, path = getattr(module, name), f"{module.__name__}.{name}"
            if isinstance(value, type | FunctionType):
                found.setdefault(id(value), (path, value))
            if isinstance(value, type):
                for member, call in members(value):
                    found.setdefault(id(call), (f"{path}.{member}", call))
    return dict(found.values())


CALLABLES = every_callable()


@pytest.mark.parametrize(
    "name",
    [
        "ConvSyncClient.get_conversation",
        "AsyncConvSyncClient.sync_conversation",
        "TurnRunner",
        "TurnRunner.__init__",
        "TurnRunner.run",
        "TurnRunner.sends_replies",
        "ConversationRef.of",
        "create_app",
        "app.create_router",
        "middleware.ConvSyncMiddleware.__init__",
        "stores.open_store",
        "telemetry.connect",
        "testing.ReferenceServer.client",
    ],
)
def test_the_walk_meets_what_is_public(name: str) -> None:
    """One that meets nothing would pass as well."""
    assert f"{PACKAGE}.{name}" in CALLABLES


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_what_is_public_can_be_read_at_run_time(name: str) -> None:
    """Annotations name what is there, although the names themselves load little."""
    found = CALLABLES[name]

    if not isinstance(found, type):
        get_type_hints(found)
    else:
        for kind in filter(is_ours, found.__mro__):
            inspect.get_annotations(kind, eval_str=True)
    if not (isinstance(found, type) and issubclass(found, dict)):  # typed ones have none
        inspect.signature(found, eval_str=True)


READ = """
import inspect, typing
from langchain_convsync import AsyncConvSyncClient, ConvSyncClient, TurnRunner, create_app
for call in {calls}:
    assert "return" in typing.get_type_hints(call), call
    inspect.signature(call, eval_str=True)
print("read")
"""


@pytest.mark.parametrize(
    "calls",
    [
        "TurnRunner.__init__, TurnRunner.run, TurnRunner.atake_over",
        "ConvSyncClient.add_message, AsyncConvSyncClient.lookup_tenant",
        "create_app,",
    ],
)
def test_signatures_can_be_read_before_anything_was_made(calls: str) -> None:
    """In a process that has done nothing else, whatever other tests have loaded here."""
    assert python(READ.format(calls=calls)) == "read\n"


def test_types_are_the_exported_ones() -> None:
    """Not stand-ins for them."""
    assert get_type_hints(TurnRunner.run)["event"] is InboundEvent
    assert get_type_hints(TurnRunner.arun)["return"] is Turn
    assert get_type_hints(AsyncConvSyncClient.get_conversation)["return"] is Conversation


def test_a_clients_method_can_be_a_tool() -> None:
    """Of the class, for its arguments; of a client, to be called."""
    described = StructuredTool.from_function(ConvSyncClient.get_conversation)

    with ReferenceServer() as server:
        server.create_conversation(phone_number=CUSTOMER, subdomain="pizzas", bot_id="bot1")
        with server.client() as client:
            tool = StructuredTool.from_function(client.get_conversation)
            found = tool.invoke({"phone_number": CUSTOMER})

    assert (
        described.args.keys() - {"self"} == tool.args.keys() == {"phone_number", "bot_id", "target"}
    )
    assert found.subdomain == "pizzas"


async def test_an_async_clients_method_can_be_a_tool() -> None:
    """The awaited client is no different."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=CUSTOMER, subdomain="pizzas", bot_id="bot1")
        async with server.async_client() as client:
            tool = StructuredTool.from_function(coroutine=client.get_conversation)
            found = await tool.ainvoke({"phone_number": CUSTOMER})

    assert found.subdomain == "pizzas"


def test_a_module_on_first_use_is_imported_by_its_names_alone() -> None:
    """What looks around in a module, as doctest does, imports nothing."""
    lazy = module_on_first_use("no_module_of_this_name")

    assert not hasattr(lazy, "__wrapped__")
    with pytest.raises(ModuleNotFoundError, match="no_module_of_this_name"):
        _ = lazy.Name
