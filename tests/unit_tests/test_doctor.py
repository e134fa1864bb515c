"""What ``convsync doctor`` makes of what it saw: the decisions that need no server."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from langchain_convsync import ServerProfile
from langchain_convsync.cli._doctor import api_server, judging
from langchain_convsync.cli._doctor.api_server import Probe
from langchain_convsync.cli._doctor.customer import inbound, ordered, spellings
from langchain_convsync.cli._doctor.findings import (
    Area,
    profile_expression,
    safe_name,
    seen_settings,
)
from langchain_convsync.client import Answer, Failure
from langchain_convsync.models import Conversation, ConversationMessage

NOW = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
EVERYTHING = ServerProfile(
    prefix="/v2",
    phone_format="jid",
    history="sync",
    records_inbound=True,
    context_sync="replace",
    intents=frozenset({"order", "menu"}),
    history_cap=20,
    idempotency_keys=True,
    settle=3.0,
)


def said(*contents: str, role: str = "user") -> list[ConversationMessage]:
    return [ConversationMessage(role=role, content=content) for content in contents]


def conversation(*entries: tuple[str, str], **metadata: Any) -> Conversation:
    history = [{"role": role, "content": content} for role, content in entries]
    return Conversation(
        session_id="s",
        user_id="+51999999999",
        bot_id="b",
        subdomain="t",
        context={"previousMessages": history},
        metadata=metadata,
    )


@pytest.mark.parametrize(
    ("failure", "check", "advice"),
    [
        (Failure(kind="connection", reason="", cause=socket.gaierror()), "reachable", "DNS"),
        (
            Failure(kind="connection", reason="", cause=ConnectionRefusedError()),
            "reachable",
            "port",
        ),
        (
            Failure(kind="connection", reason="", cause=ssl.SSLCertVerificationError()),
            "TLS",
            "certificate",
        ),
        (Failure(kind="connection", reason="", cause=ssl.SSLError()), "TLS", "TLS"),
        (Failure(kind="timeout", reason=""), "reachable", "overloaded"),
        (Failure(kind="connection", reason="", cause=ConnectionResetError()), "reachable", "log"),
    ],
)
def test_each_way_of_not_being_reached_has_its_advice(
    failure: Failure, check: str, advice: str
) -> None:
    """The host is named where it may be misspelled."""
    (found,) = api_server.reached("https://api.example.com", failure)

    assert (found.status, found.check) == ("failed", check)
    assert advice in found.advice


def test_a_server_that_asks_for_no_key_is_worth_a_warning() -> None:
    """Except on this machine."""
    unknown = Answer(status=404, headers=httpx.Headers())

    found = api_server.key(unknown, unknown, has_key=True, base_url="https://api.example.com")

    assert found.status == "warning"


def test_a_key_of_one_tenant_may_still_be_right() -> None:
    """A number that is nobody's is of no tenant."""
    refused = Answer(status=403, headers=httpx.Headers())

    found = api_server.key(refused, refused, has_key=True, base_url="https://api.example.com")

    assert (found.status, "--phone" in found.advice) == ("warning", True)


@pytest.mark.parametrize(
    ("ahead", "status"),
    [(0, "ok"), (5, "ok"), (6, "warning"), (-5, "ok"), (-7, "warning"), (None, "skipped")],
)
def test_clocks_may_differ_by_some_seconds(ahead: int | None, status: str) -> None:
    """Dates have whole seconds, and the answer took its time."""
    date = None if ahead is None else format_datetime(NOW + timedelta(seconds=ahead), usegmt=True)
    probe = Probe(
        prefix="",
        outcome=Answer(status=200, headers=httpx.Headers()),
        sent_at=NOW,
        received_at=NOW + timedelta(milliseconds=10),
    )

    assert api_server.clock(probe, date).status == status


def test_every_spelling_is_tried_once_and_the_exact_number_first() -> None:
    """Formats of the number as given, then of its twin."""
    assert list(spellings("55 11 98765-4321")) == [
        ("e164", "+5511987654321"),
        ("digits", "+5511987654321"),
        ("jid", "+5511987654321"),
        ("e164", "+551187654321"),
        ("digits", "+551187654321"),
        ("jid", "+551187654321"),
    ]
    assert [text for _, text in spellings("38111222333@lid")] == ["38111222333@lid"]


@pytest.mark.parametrize(
    ("read", "seen"),
    [
        (conversation(), False),
        (conversation(("user", "Hola")), True),
        (conversation(("user", "Hola"), ("user", "Una pizza")), True),
        (conversation(("user", "Hola"), ("bot", "convsync doctor 0: a test")), True),
        (conversation(("bot", "convsync doctor 0: a test")), False),
        (conversation(("user", "Hola"), ("bot", "¡Hola!")), None),
        (conversation(("user", "Hola"), convsync={"turn": "t"}), None),
        (conversation(convsync={"turn": "t"}), None),
    ],
)
def test_who_recorded_the_customers_words_is_told_where_it_can_be(
    read: Conversation, seen: bool | None
) -> None:
    """An agent may have; doctor itself did not."""
    found = inbound(read)

    assert found.profile.get("records_inbound") == seen
    assert (found.status == "skipped") == (seen is None)


def test_an_empty_history_tells_something_only_if_the_customer_has_written() -> None:
    """A conversation that was made without a message of theirs has one, too."""
    assert "if the customer has written here" in inbound(conversation()).message


@pytest.mark.parametrize(("number", "is_told"), [(1, True), (2, False)])
def test_one_message_does_not_tell_what_becomes_of_the_next(number: int, is_told: bool) -> None:
    """The server that was observed stores a conversation's first one only."""
    found = inbound(conversation(*[("user", f"Hola {each}") for each in range(number)]))

    assert ("cannot tell whether it records later ones" in found.message) == is_told
    assert ("let the customer write again" in found.advice) == is_told


@pytest.mark.parametrize(
    ("seconds", "late"),
    [
        ([], 0),
        (["05"], 0),
        (["05", "05", "06.5", "06"], 0),
        (["soon", "01", "02"], 0),
        (["10", "20", "15", "16", "21"], 2),
        (["30", "soon", "01"], 1),
    ],
)
@pytest.mark.parametrize("zone", ["", "Z", "+02:00"])
def test_messages_behind_newer_ones_are_told(seconds: list[str], late: int, zone: str) -> None:
    """Whole seconds are no disorder; a time that cannot be read says nothing."""
    times = [f"2026-01-01T12:00:{at}{zone}" for at in seconds]
    history = [{"role": "user", "content": "Hola", "timestamp": time} for time in times]
    read = conversation().model_copy(update={"context": {"previousMessages": history}})

    found = ordered(read)

    assert (found.status == "warning") == (late > 0)
    assert not late or found.message.startswith(f"{late} of ")


@pytest.mark.parametrize(
    ("before", "after", "cap"),
    [
        (said("a", "b"), said("a", "b", "test"), None),
        (said("a", "b"), said("b", "test"), 2),
        (said("a", "b", "c"), said("c", "test", "test"), 3),
        (said("a", "b"), said("test"), None),  # an answer with the new message alone
        (said("a", "b"), said("x", "test"), None),  # somebody else's history
        (said(), said("test"), None),
    ],
)
def test_a_cap_is_seen_only_where_a_message_was_pushed_out(
    before: list[ConversationMessage], after: list[ConversationMessage], cap: int | None
) -> None:
    """Nothing is guessed."""
    found = judging.cap(before, after, {"test"})

    assert found.profile.get("history_cap") == cap


@pytest.mark.parametrize("whole", [EVERYTHING, ServerProfile()])
def test_the_printed_profile_is_the_profile(whole: ServerProfile) -> None:
    """Every setting survives being pasted."""
    settings = {name: getattr(whole, name) for name in ServerProfile.__dataclass_fields__}
    finding = Area("any").ok("any", "any", **settings)

    text = profile_expression(seen_settings([finding]))

    assert eval(text, {"ServerProfile": ServerProfile}) == whole
    assert "not seen" not in text


def test_what_was_not_seen_is_named_in_the_profile() -> None:
    """Nobody takes a default for a finding."""
    text = profile_expression({"prefix": "/v2"})

    assert "# not seen, left at the default: phone_format, history," in text
    assert eval(text, {"ServerProfile": ServerProfile}) == ServerProfile(prefix="/v2")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("default", "default"),
        ("507f1f77bcf86cd799439011", "507f1f77bcf86cd799439011"),
        ("shop +51944333222", "shop +51•••••••22"),
        ("51944333222@c.us", "+51•••••••22@c.us"),
        ("381112223334445556667", "•••"),
        ("a\x1b[31mb\nc", "a [31mb c"),
    ],
)
def test_a_name_is_shown_without_the_phone_number_in_it(name: str, shape: str) -> None:
    """And without what would command a terminal."""
    assert safe_name(name) == shape
