"""The chat message history, as far as it needs no server."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_convsync import telemetry
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.errors import (
    APIConnectionError,
    ConfigurationError,
    ConversationMismatchError,
    InvalidPhoneNumberError,
)
from langchain_convsync.models import StateUpdate
from langchain_convsync.stores import RedisEventStore, store_of
from langchain_convsync.surfaces.context import ConversationRef, in_conversation
from tests.surfaces import BOT, PHONE, in_turn, sync_and_async, unreachable

OTHER = "+51988888888"


async def read(mode: str, history: ConvSyncChatMessageHistory) -> list[BaseMessage]:
    return history.messages if mode == "sync" else await history.aget_messages()


async def add(mode: str, history: ConvSyncChatMessageHistory, *messages: BaseMessage) -> None:
    if mode == "sync":
        history.add_messages(messages)
    else:
        await history.aadd_messages(messages)


async def clear(mode: str, history: ConvSyncChatMessageHistory) -> None:
    if mode == "sync":
        history.clear()
    else:
        await history.aclear()


@pytest.mark.parametrize("session_id", [PHONE, "51999999999@c.us", ConversationRef(PHONE)])
def test_a_history_is_made_without_io(session_id: str | ConversationRef) -> None:
    """A factory makes one for every call, on the event loop even of async ones."""
    ConvSyncChatMessageHistory(session_id, client=unreachable())


@pytest.mark.parametrize("session_id", ["", "abc123"])
def test_a_session_id_that_names_no_customer_is_refused(session_id: str) -> None:
    """A key of another kind of store would otherwise look like an empty history."""
    with pytest.raises(InvalidPhoneNumberError):
        ConvSyncChatMessageHistory(session_id, client=unreachable())


def test_a_reference_and_a_bot_must_agree() -> None:
    """The bot can be named twice, but not differently."""
    ref = ConversationRef(PHONE, bot_id=BOT)

    with pytest.raises(ConversationMismatchError):
        ConvSyncChatMessageHistory(ref, bot_id="another", client=unreachable())


def test_a_window_of_nothing_is_refused() -> None:
    """It would be an agent without memory that looks like one with."""
    with pytest.raises(ConfigurationError, match="limit"):
        ConvSyncChatMessageHistory(PHONE, client=unreachable(), limit=0)


def test_histories_that_name_one_store_share_it(tmp_path: Path) -> None:
    """Each would open one of its own, and nobody would close it."""
    one, other = (store_of(tmp_path / "convsync.db") for _ in range(2))

    ConvSyncChatMessageHistory(PHONE, client=unreachable(), store="redis://127.0.0.1:9/0")

    assert one is other
    assert store_of(one) is one
    one.close()


def test_a_durable_history_is_made_without_io() -> None:
    """Neither the API server nor the store is asked."""
    ConvSyncChatMessageHistory(
        PHONE, client=unreachable(), store=RedisEventStore("redis://127.0.0.1:9/0")
    )


def test_missing_configuration_says_what_to_set() -> None:
    """The error names the argument and the variable."""
    with pytest.raises(ConfigurationError, match="CONVSYNC_BASE_URL"):
        ConvSyncChatMessageHistory(PHONE)


def test_a_history_shows_no_customer() -> None:
    """Reprs end up in logs."""
    assert "999999999" not in repr(ConvSyncChatMessageHistory(PHONE, client=unreachable()))


@sync_and_async
async def test_inside_a_turn_the_history_is_the_turns(mode: str) -> None:
    """An agent with a memory of this kind gets it from there, without a request."""
    history = ConvSyncChatMessageHistory(PHONE, client=unreachable(), limit=1)

    with in_turn(history_given=False):
        messages = await read(mode, history)

    assert [message.content for message in messages] == ["¡Hola! Bienvenido"]


@sync_and_async
async def test_inside_a_turn_that_gives_the_history_there_is_no_other(mode: str) -> None:
    """A model must not read everything twice."""
    history = ConvSyncChatMessageHistory(PHONE, client=unreachable())

    with in_turn(history_given=True):
        assert await read(mode, history) == []


@sync_and_async
async def test_inside_a_turn_nothing_is_written(mode: str) -> None:
    """The turn records the customer's message and the reply itself, once."""
    history = ConvSyncChatMessageHistory(PHONE, client=unreachable())

    with in_turn() as record:
        await add(mode, history, HumanMessage("Una pizza"), AIMessage("Claro"))

    assert (record.added, record.update) == ([], StateUpdate())


@sync_and_async
async def test_inside_a_turn_another_customers_history_is_refused(mode: str) -> None:
    """The turn's customer is the only one."""
    history = ConvSyncChatMessageHistory(OTHER, client=unreachable())

    with in_turn(), pytest.raises(ConversationMismatchError):
        await read(mode, history)


@sync_and_async
async def test_a_block_of_another_customer_is_refused(mode: str) -> None:
    """Two sources that disagree raise, outside a turn as well."""
    history = ConvSyncChatMessageHistory(OTHER, client=unreachable())

    with in_conversation(PHONE), pytest.raises(ConversationMismatchError):
        await add(mode, history, HumanMessage("Hola"))

    assert isinstance(history.last_error, ConversationMismatchError)


@sync_and_async
async def test_a_write_that_fails_is_seen(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Raised, kept, counted, logged without the customer, and handed to ``on_error``."""
    errors: list[Exception] = []
    before = telemetry.counted("history_failures", error="APIConnectionError")
    history = ConvSyncChatMessageHistory(PHONE, client=unreachable(), on_error=errors.append)

    with caplog.at_level(logging.WARNING), pytest.raises(APIConnectionError):
        await add(mode, history, HumanMessage("Hola"))

    assert [history.last_error] == errors
    assert telemetry.counted("history_failures", error="APIConnectionError") == before + 1
    assert "not written" in caplog.text
    assert "999999999" not in caplog.text


@sync_and_async
async def test_a_read_that_fails_is_raised(mode: str) -> None:
    """An agent must not take an unreachable history for an empty one."""
    history = ConvSyncChatMessageHistory(PHONE, client=unreachable())

    with pytest.raises(APIConnectionError):
        await read(mode, history)


@sync_and_async
async def test_inside_a_turn_a_history_cannot_be_cleared(mode: str) -> None:
    """A turn records and takes nothing back; the error says what to do instead."""
    history = ConvSyncChatMessageHistory(PHONE, client=unreachable())

    with in_turn() as record, pytest.raises(ConfigurationError, match="limit="):
        await clear(mode, history)

    assert len(record.present().messages) == 2


@sync_and_async
async def test_a_clearing_that_fails_is_seen(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Raised, kept, logged without the customer, and handed to ``on_error``."""
    errors: list[Exception] = []
    history = ConvSyncChatMessageHistory(PHONE, client=unreachable(), on_error=errors.append)

    with pytest.raises(APIConnectionError):
        await clear(mode, history)

    assert [history.last_error] == errors
    assert "not cleared" in caplog.text
    assert "999999999" not in caplog.text


def test_whether_there_is_a_history_is_no_question_to_the_server() -> None:
    """``history or default`` must not cost a call, or fail with it."""
    assert ConvSyncChatMessageHistory(PHONE, client=unreachable())
