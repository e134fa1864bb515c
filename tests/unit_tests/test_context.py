"""Which conversation a run serves, and what a turn records."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from langchain_convsync.errors import (
    ConfigurationError,
    ConversationMismatchError,
    InvalidPhoneNumberError,
    UnknownConversationError,
)
from langchain_convsync.models import ConversationMessage, StateUpdate
from langchain_convsync.surfaces.context import (
    ConversationRef,
    Tenant,
    TurnRecord,
    current_conversation,
    current_turn,
    in_conversation,
    resolve,
)
from tests.surfaces import BOT, PHONE, TENANT, conversation, in_turn

OTHER = "+51988888888"


def in_block(name: str | None) -> AbstractContextManager[object]:
    return nullcontext() if name is None else in_conversation(name)


def test_a_reference_names_one_customer_in_any_spelling() -> None:
    """Whoever writes the number differently means the same customer."""
    assert ConversationRef("+51 999-999-999") == ConversationRef(PHONE)


def test_a_reference_to_no_customer_is_refused() -> None:
    """A typing error is told at once, not at the first request."""
    with pytest.raises(InvalidPhoneNumberError):
        ConversationRef("nobody")


def test_a_reference_does_not_show_the_customer() -> None:
    """Reprs end up in logs and traces."""
    ref = ConversationRef(PHONE).at(conversation())

    assert "999999999" not in repr(ref)


def test_a_reference_is_completed_by_the_conversation_that_was_read() -> None:
    """What the API server told is known from then on."""
    ref = ConversationRef(PHONE).at(conversation())

    assert (ref.bot_id, ref.subdomain) == (BOT, TENANT)
    assert ref.session_id == conversation().session_id


def test_two_sources_complete_each_other() -> None:
    """One knows the bot, the other the tenant."""
    ref = ConversationRef(PHONE, bot_id=BOT).agreeing(ConversationRef(PHONE, subdomain=TENANT))

    assert ref == ConversationRef(PHONE, bot_id=BOT, subdomain=TENANT)


@pytest.mark.parametrize(
    "other",
    [
        ConversationRef(OTHER),
        ConversationRef(PHONE, bot_id="another"),
        ConversationRef(PHONE, subdomain="another"),
        ConversationRef(PHONE, session_id="another"),
    ],
)
def test_two_sources_that_disagree_are_an_error(other: ConversationRef) -> None:
    """Nothing decides silently between two customers or two tenants."""
    with pytest.raises(ConversationMismatchError):
        ConversationRef(PHONE).at(conversation()).agreeing(other)


def test_a_side_effect_has_the_same_key_when_its_turn_runs_again() -> None:
    """A payment provider recognises the repetition after a crash."""
    first = ConversationRef(PHONE, turn_id="turn-1")

    assert first.tool_key(0) == ConversationRef(PHONE, turn_id="turn-1").tool_key(0)
    assert len({first.tool_key(0), first.tool_key(1)}) == 2
    assert first.tool_key(0) != ConversationRef(PHONE, turn_id="turn-2").tool_key(0)


def test_without_a_turn_there_is_no_key() -> None:
    """It would be the same for two of them, or change with every run."""
    with pytest.raises(UnknownConversationError, match=r"TurnRunner.*event_id"):
        ConversationRef(PHONE).tool_key("order")


def test_a_side_effect_is_known_by_its_name() -> None:
    """Names and numbers both do."""
    ref = ConversationRef(PHONE, turn_id="turn-1")

    assert len({ref.tool_key(name) for name in ("order", "order 2", 0, 1)}) == 4
    assert ref.tool_key(1) == ref.tool_key("1")


@pytest.mark.parametrize("name", ["", "  ", None, ["order"]])
def test_a_side_effect_has_a_name(name: Any) -> None:
    """What none was found for would share one key with all else in the turn."""
    with pytest.raises(ConfigurationError, match=r'tool_key\("order"\)|name must be'):
        ConversationRef(PHONE, turn_id="turn-1").tool_key(name)


def test_without_a_turn_a_key_is_of_its_event() -> None:
    """Each run that answers the event has it, and no other customer's event of that id."""
    with in_conversation(PHONE, event_id="1") as ref, in_conversation(PHONE, event_id="1"):
        assert ref.tool_key("order") == current_conversation().tool_key("order")
    others = [
        ConversationRef(PHONE, event_id="2"),
        ConversationRef(OTHER, event_id="1"),
        ConversationRef(PHONE, event_id="1", bot_id=BOT),
        ConversationRef(PHONE, event_id="1", turn_id="1"),
    ]

    assert len({each.tool_key("order") for each in [ref, *others]}) == 5


@pytest.mark.parametrize("name", ["phone_number", "session_id", "turn_id", "event_id", "tool_key"])
def test_a_tenant_has_nothing_of_a_customer(name: str) -> None:
    """Not even None; what asks is told where to ask."""
    tenant = Tenant(TENANT, BOT)

    assert not hasattr(tenant, name)
    with pytest.raises(AttributeError, match=rf"no {name}.*current_conversation\(\)"):
        getattr(tenant, name)


def test_a_tenant_is_a_plain_value() -> None:
    """Compared and hashed by what it is; a misspelt name is an ordinary error."""
    assert {Tenant(TENANT, BOT): 1}[Tenant(subdomain=TENANT, bot_id=BOT)] == 1
    with pytest.raises(AttributeError, match="no attribute 'subdomian'"):
        _ = Tenant(TENANT, BOT).subdomian  # type: ignore[attr-defined]  # misspelt on purpose


def test_no_conversation_is_made_of_a_tenant() -> None:
    """A surface is told whose it is, and a tenant is nobody's."""
    with pytest.raises(AttributeError, match="no phone_number"):
        ConversationRef.of(Tenant(TENANT, BOT))  # type: ignore[arg-type]  # by mistake


def test_outside_of_a_run_nobody_is_served() -> None:
    """The error says where to ask."""
    with pytest.raises(UnknownConversationError, match=r"in_conversation.*copy_context"):
        current_conversation()


def test_a_block_of_a_turns_customer_is_of_the_turn() -> None:
    """What the turn knows is not lost by naming its customer again."""
    with in_turn() as record, in_conversation(PHONE, event_id="1") as ref:
        assert ref == replace(record.ref, event_id="1") == current_conversation()
        with pytest.raises(ConversationMismatchError), in_conversation(PHONE, bot_id="another"):
            pass


def test_a_block_serves_its_conversation_and_then_the_one_around_it() -> None:
    """Blocks nest like any other."""
    with in_conversation(PHONE, bot_id=BOT) as outer:
        with in_conversation(OTHER):
            assert resolve().phone_number == OTHER
        assert resolve() == outer == ConversationRef(PHONE, bot_id=BOT)


def test_a_block_refuses_another_bot_than_its_reference_has() -> None:
    """The two ways to name the bot must agree."""
    with (
        pytest.raises(ConversationMismatchError, match="bot_id"),
        in_conversation(ConversationRef(PHONE, bot_id=BOT), bot_id="another"),
    ):
        pass


async def test_a_block_reaches_tasks_and_threads_called_from_it() -> None:
    """LangChain runs tools on threads and branches as tasks."""

    async def named() -> str:
        return resolve().phone_number

    with in_conversation(PHONE), ThreadPoolExecutor() as pool:
        task = asyncio.create_task(named())
        thread = pool.submit(copy_context().run, lambda: resolve().phone_number)

        assert await task == thread.result() == PHONE


@pytest.mark.parametrize(
    "configurable",
    [
        {"conversation": PHONE},
        {"conversation": ConversationRef(PHONE)},
        {"phone_number": PHONE},
        {"phone_number": PHONE, "bot_id": BOT},
    ],
)
def test_a_config_may_name_the_conversation(configurable: dict[str, object]) -> None:
    """The last place to look."""
    ref = resolve(config={"configurable": configurable})

    assert ref == ConversationRef(PHONE, bot_id=configurable.get("bot_id"))  # type: ignore[arg-type]  # a mixed table


def test_a_graph_context_of_another_kind_is_the_users_own() -> None:
    """A user's context schema is left alone."""
    with in_conversation(PHONE):
        assert resolve(context={"phone_number": OTHER}).phone_number == PHONE


@pytest.mark.parametrize("named", [PHONE, ConversationRef(PHONE), "51999999999@c.us"])
def test_an_identity_makes_a_conversation_of_a_users_own_context(
    named: str | ConversationRef,
) -> None:
    """The context schema stays the user's; a phone number, a chat id or a reference comes of it."""
    ref = resolve(context={"customer": named}, identity=lambda context: context["customer"])

    assert ref == ConversationRef(PHONE)


@pytest.mark.parametrize("context", [None, {"customer": None}])
def test_an_identity_that_names_no_customer_leaves_it_to_the_other_sources(context: object) -> None:
    """A run without a context, or with one that names none: nothing is made up."""
    with in_conversation(PHONE):
        ref = resolve(context=context, identity=lambda found: found["customer"])

    assert ref == ConversationRef(PHONE)


def test_what_a_server_copies_from_the_context_names_nobody_a_second_time() -> None:
    """LangGraph's puts each key of a run's context into ``configurable``, readable or not."""
    sealed = {"conversation": "gAAAAAB"}
    config = {"configurable": {"thread_id": "1", **sealed}}

    ref = resolve(context=sealed, identity=lambda _: PHONE, config=config)

    assert ref.phone_number == PHONE
    config["configurable"]["conversation"] = OTHER
    with pytest.raises(ConversationMismatchError):
        resolve(context=sealed, identity=lambda _: PHONE, config=config)


def test_a_reference_as_context_needs_no_identity() -> None:
    """Both kinds of runs can share one agent."""
    ref = resolve(context=ConversationRef(PHONE), identity=lambda _: OTHER)

    assert ref == ConversationRef(PHONE)


def test_an_identity_that_makes_no_phone_number_is_told() -> None:
    """A mistake in it must not look like a run without a conversation."""
    with pytest.raises(InvalidPhoneNumberError):
        resolve(context={"customer": "Ana"}, identity=lambda context: context["customer"])


SOURCES = ["constructor", "context", "block", "config"]


@pytest.mark.parametrize(("one", "another"), [*combinations(SOURCES, 2)])
def test_of_two_sources_that_disagree_neither_wins(one: str, another: str) -> None:
    """Whichever two they are."""
    named = {one: PHONE, another: OTHER}

    with pytest.raises(ConversationMismatchError), in_block(named.get("block")):
        resolve(
            named.get("constructor"),
            context=named.get("context"),
            identity=str,
            config={"configurable": {"conversation": named.get("config")}},
        )


@pytest.mark.parametrize("source", ["constructor", "context", "block", "turn", "config"])
def test_no_source_outvotes_the_turn(source: str) -> None:
    """Inside a turn every other customer is refused, wherever the name comes from."""
    other = ConversationRef(OTHER)

    def ask() -> ConversationRef:
        if source == "block":
            with in_conversation(other):
                return resolve()
        if source == "turn":
            return resolve(PHONE, context=other)
        return resolve(
            other if source == "constructor" else None,
            context=other if source == "context" else None,
            config={"configurable": {"conversation": other}} if source == "config" else None,
        )

    with in_turn(), pytest.raises(ConversationMismatchError):
        ask()


def test_an_unnamed_run_says_how_to_name_it() -> None:
    """The error names the ways out."""
    with pytest.raises(UnknownConversationError, match="in_conversation"):
        resolve(config={"configurable": {"thread_id": "7"}})


def test_no_turn_runs_outside_a_runner() -> None:
    """Surfaces write directly then."""
    assert current_turn.get() is None


def test_a_turn_adds_up_what_its_surfaces_decide() -> None:
    """Later decisions win, key by key."""
    with in_turn() as record:
        record.decide(StateUpdate(intent="order", context={"items": 1, "total": 25}))
        record.decide(StateUpdate(step="paying", context={"total": 50}))

    assert record.update == StateUpdate(
        intent="order", step="paying", context={"items": 1, "total": 50}
    )


def test_no_decision_is_lost_among_parallel_tools() -> None:
    """An agent calls its tools on many threads at once."""
    found = conversation()
    record = TurnRecord(ConversationRef(PHONE), found, history_given=True)

    with ThreadPoolExecutor(8) as pool:
        for number in range(200):
            pool.submit(record.decide, StateUpdate(context={str(number): number}))

    assert len(record.update.context) == 200


def test_a_turn_presents_the_conversation_with_its_records_on_top() -> None:
    """A tool sees what another tool of the same turn has decided."""
    with in_turn() as record:
        record.decide(StateUpdate(intent="payment", context={"paid": True}, is_active=False))
        record.add(ConversationMessage(role="bot", content="Un momento"))
        seen = record.present()

    assert (seen.current_intent, seen.current_step, seen.is_active) == (
        "payment",
        "selecting",
        False,
    )
    assert (seen.context["paid"], seen.context["orderTotal"]) == (True, 25.0)
    assert [message.content for message in seen.messages] == [
        "Hola",
        "¡Hola! Bienvenido",
        "Un momento",
    ]


def test_a_turn_without_records_presents_what_was_read() -> None:
    """Nothing is made up."""
    with in_turn() as record:
        assert record.present() == record.conversation
