"""Results as text: what comes back is what was stored, and nothing of it is executed."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from pydantic import HttpUrl, SecretStr

from langchain_convsync.errors import InvalidEventError
from langchain_convsync.surfaces.results import decode, encode
from tests import stored_results
from tests.stored_results import Numbers, Open, Order, Place, Receipt, Rights, Step

RESULTS: dict[str, Any] = {
    "nothing": None,
    "half a character": "ñ\ud83d",
    "JSON": {"a": [1, 2.5, None, True]},
    "keys that are no text": {1: "a", (2, 3): "b", None: "c"},
    "keys that look like ours": {"$type": ["set", [1]], "$langchain_message": {}},
    "tuple": (1, ("a", "b")),
    "named tuple": Place("Av. Larco", 5),
    "sets": {"set": {1, 2}, "frozenset": frozenset({"a"})},
    "bytes": [b"\x00\xff", bytearray(b"a")],
    "infinity": [float("inf"), float("-inf")],
    "complex": 1 + 2j,
    "time": [
        datetime(2026, 1, 1, 3, tzinfo=UTC),
        datetime(2026, 1, 1),  # noqa: DTZ001 - users have them
        date(2026, 1, 1),
        time(3, 0, 0, 1),
        timedelta(days=-1, microseconds=1),
    ],
    "text of a kind": [
        uuid.UUID(int=1),
        Decimal("9.90"),
        Fraction(1, 3),
        PurePosixPath("menu/today"),
        ip_address("10.0.0.1"),
        HttpUrl("https://example.com/a"),
    ],
    "enumerations": [Step.ORDER, Rights.READ | Rights.PAY],
    "model": Order(sum=Decimal("9.90"), items=[stored_results.Item(name="té")]),
    "model with more": Open(id=1, also={"at": date(2026, 1, 1)}),  # type: ignore[call-arg]
    "model that is a list": Numbers([1, 2]),
    "dataclass": Receipt(1, Order(sum=Decimal(2))),
    "document": Document(page_content="la carta", metadata={"page": 1}, id="d"),
    "message": AIMessage("Hola", tool_calls=[{"name": "pay", "args": {"sum": 5}, "id": "1"}]),
    "message with a parsed answer": AIMessage("{}", additional_kwargs={"parsed": Order()}),
    "tool's artifact": ToolMessage("found", tool_call_id="1", artifact=[Document("la carta")]),
    "an agent's state": {
        "messages": [HumanMessage("Hola", id="a"), AIMessage("¡Hola!", id="b")],
        "structured_response": Order(),
    },
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_come_back_as_they_were(name: str) -> None:
    """Values and their types, in any nesting."""
    restored = decode(encode(RESULTS[name]))

    assert (restored, type(restored)) == (RESULTS[name], type(RESULTS[name]))
    assert repr(restored) == repr(RESULTS[name])


def test_no_number_comes_back_as_no_number() -> None:
    """JSON knows none of it."""
    assert repr(decode(encode([float("nan")]))) == "[nan]"


def test_a_streamed_message_is_stored_whole() -> None:
    """A chunk is a piece of transport."""
    restored = decode(encode(AIMessageChunk(content="Hola")))

    assert (type(restored), restored.content) == (AIMessage, "Hola")


def test_what_is_restored_runs_neither_constructors_nor_validators() -> None:
    """A store is no place from which code is run."""
    stored = encode(RESULTS["dataclass"])
    stored_results.CALLED.clear()

    decode(stored)

    assert stored_results.CALLED == []


READER = """
import sys
from langchain_convsync.surfaces.results import decode

print(decode(sys.stdin.read()), "tests.stored_results" in sys.modules)
"""


def test_a_class_that_a_process_has_not_loaded_is_not_imported() -> None:
    """Its object comes back as its fields."""
    stored = encode([Open(id=1), Place("Av. Larco", 5), Step.ORDER, PurePosixPath("a")])
    command = [sys.executable, "-c", READER]

    told = subprocess.run(command, input=stored, capture_output=True, text=True, check=True)

    expected = [{"id": 1}, ("Av. Larco", 5), "order", PurePosixPath("a")]
    assert told.stdout.strip() == f"{expected} False"


@pytest.mark.parametrize(
    "reference", ["os:PathLike", "builtins:type", "subprocess:Popen", "nowhere:Class", ""]
)
@pytest.mark.parametrize("kind", ["model", "dataclass"])
def test_a_forged_class_is_no_class(kind: str, reference: str) -> None:
    """Only models and dataclasses are made."""
    forged = json.dumps({"$type": [kind, reference, {"args": ["id"]}]})

    assert decode(forged) == {"args": ["id"]}


def test_a_class_that_nobody_else_can_name_comes_back_as_a_dict() -> None:
    """One inside a function, for example."""
    assert decode(encode(stored_results.local_class())) == {"name": "local"}


def test_a_class_with_other_fields_by_now_comes_back_as_a_dict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A deployment between two deliveries; half a model would fail later, somewhere."""
    stored = encode([Open(id=1), Receipt(1, Order())])
    monkeypatch.setattr(stored_results, "Open", Order)
    monkeypatch.setattr(stored_results, "Receipt", Place)

    assert decode(stored) == [{"id": 1}, {"number": 1, "of": Order()}]


def test_a_member_that_an_enumeration_has_lost_comes_back_as_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A deployment, as above."""
    stored = encode(Step.ORDER)
    monkeypatch.setattr(stored_results, "Step", Rights)

    assert decode(stored) == "order"


def itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (object(), "of object;"),
        ({"a": [lambda: 1]}, "of function;"),
        (Order, "of ModelMetaclass;"),
        (SecretStr("hunter2"), "of SecretStr;"),
        (itself(), "RecursionError"),
    ],
)
def test_anything_else_is_refused_by_the_name_of_its_type(result: object, what: str) -> None:
    """And a secret is never stored."""
    with pytest.raises(InvalidEventError, match=what) as refused:
        encode(result)

    assert "hunter2" not in str(refused.value)


def test_what_earlier_versions_stored_is_read() -> None:
    """Messages as LangChain writes them, and lists for tuples."""
    stored = {"a": {"$langchain_message": {"type": "ai", "data": {"content": "Hola"}}}, "b": [1]}

    assert decode(json.dumps(stored)) == {"a": AIMessage("Hola"), "b": [1]}
