"""Values are checked where they are given, in one line that says what to do."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

import langchain_convsync
from langchain_convsync import (
    AsyncConvSyncClient,
    AsyncWAHAClient,
    ConfigurationError,
    ConversationRef,
    ConvSyncCallbackHandler,
    ConvSyncChatMessageHistory,
    ConvSyncClient,
    ConvSyncToolkit,
    InboundEvent,
    LookupTenant,
    RedisEventStore,
    ServerProfile,
    SQLiteEventStore,
    StateUpdate,
    Tenant,
    TenantInfo,
    TurnRunner,
    WAHAClient,
    WAHAReply,
    aonce,
    create_app,
    deduplicated,
    in_conversation,
    llm_extractor,
    once,
)
from langchain_convsync._checked import ANYTHING, ELSEWHERE, kind_of
from langchain_convsync._flow import run
from langchain_convsync.app import create_router
from langchain_convsync.contents import Media
from langchain_convsync.errors import UnknownArgumentError
from langchain_convsync.middleware import ConvSyncMiddleware, OnceToolsMiddleware
from langchain_convsync.server import (
    ApiKey,
    Forwarding,
    JwtRules,
    RateLimit,
    create_reference_api,
)
from langchain_convsync.server import Tenant as ServedTenant
from langchain_convsync.settings import CallTarget
from langchain_convsync.stores import open_store
from langchain_convsync.surfaces.state import as_update, ask
from langchain_convsync.testing import FakeWAHA, ReferenceServer, ScriptedChatModel
from langchain_convsync.waha import Ignored, OperatorMessage
from tests.surfaces import PHONE, unreachable
from tests.unit_tests.test_signatures import CALLABLES, members

URL = "https://api.example"
SECRET = "s" * 64


class Odd:
    """An object that nothing takes."""

    def __repr__(self) -> str:
        raise AssertionError("no error repeats what it does not know")


#: What is wrong nearly everywhere; each parameter is given what its annotation does not take.
WRONG: tuple[Any, ...] = (
    Odd(), "60", "redis://hunter2", -1, True, None, float("nan"), float("inf"), 1e12,
    ConvSyncClient, [Odd()], {"a": Odd()},
)  # fmt: skip


def runner(**given: Any) -> TurnRunner:
    """One that needs no environment."""
    return TurnRunner(
        lambda _: ScriptedChatModel([]), **{"client": unreachable(), "store": ":memory:", **given}
    )


#: Everything that is made or called with settings, and what it needs beside the one that is wrong.
MADE: Mapping[Callable[..., Any], Mapping[str, Any]] = {
    TurnRunner: {"agent": print, "client": unreachable(), "store": ":memory:"},
    ConvSyncClient: {"base_url": URL},
    AsyncConvSyncClient: {"base_url": URL},
    WAHAClient: {"base_url": URL},
    AsyncWAHAClient: {"base_url": URL},
    WAHAReply: {"base_url": URL},
    ServerProfile: {},
    CallTarget: {},
    SQLiteEventStore: {"path": ":memory:"},
    RedisEventStore: {"url": "redis://127.0.0.1:9"},
    open_store: {"url": ":memory:"},
    create_app: {"runner": runner(on_reply=print), "waha_secrets": "key"},
    create_router: {"runner": runner(on_reply=print), "waha_secrets": "key"},
    ConvSyncMiddleware: {"client": unreachable()},
    OnceToolsMiddleware: {},
    ConvSyncCallbackHandler: {"client": unreachable()},
    ConvSyncChatMessageHistory: {"session_id": PHONE, "client": unreachable()},
    ConvSyncToolkit: {"client": unreachable()},
    once: {"store": ":memory:", "event_id": "1"},
    aonce: {"store": ":memory:", "event_id": "1"},
    deduplicated: {"runnable": ScriptedChatModel([]), "store": ":memory:", "event_id": print},
    llm_extractor: {"model": ScriptedChatModel([])},
    in_conversation: {"conversation": PHONE},
    ConversationRef: {"phone_number": PHONE},
    Tenant: {},
    ReferenceServer: {},
    FakeWAHA: {},
    create_reference_api: {},
    RateLimit: {"per_minute": 1},
    ApiKey: {"sha256": "0" * 64, "name": "a", "tenants": "*"},
    JwtRules: {"key": SECRET},
    Forwarding: {"url": URL, "secret": SECRET},
    ServedTenant: {"subdomain": "a", "bot_id": "b"},
}
#: Whose public methods are checked, too.
CALLED = (
    TurnRunner, ConvSyncClient, AsyncConvSyncClient, WAHAClient, AsyncWAHAClient, ReferenceServer,
    FakeWAHA,
)  # fmt: skip


def hints_of(call: Any) -> dict[str, Any]:
    """The annotation of each parameter."""
    made = getattr(call, "__init__") if isinstance(call, type) else call  # noqa: B009 - mypy's
    hints = typing.get_type_hints(made, include_extras=True)
    packed = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = [
        each for each in inspect.signature(made).parameters.values() if each.kind not in packed
    ]
    return {each.name: hints[each.name] for each in named if each.name in hints}


def is_elsewhere(hint: Any) -> bool:
    """Whether what the argument is made into refuses it, as a phone number does."""
    parts = [hint, *typing.get_args(hint)]
    return any(ELSEWHERE in getattr(each, "__metadata__", ()) for each in parts)


def cases() -> Iterator[Any]:
    """Each parameter of each of them."""
    for call in MADE:
        for name, hint in hints_of(call).items():
            if not is_elsewhere(hint):
                yield pytest.param(call, name, hint, id=f"{call.__name__}.{name}")


@pytest.mark.parametrize(("call", "name", "hint"), list(cases()))
def test_what_is_wrong_is_refused_when_it_is_given(
    call: Callable[..., Any], name: str, hint: Any
) -> None:
    """In one line, which names the argument and repeats no text."""
    kind = kind_of(hint)
    wrong = [value for value in WRONG if not kind.fits(value)]
    assert wrong, f"{name} is not checked: its annotation takes everything"

    for value in wrong:
        with pytest.raises(ConfigurationError, match=rf"^{name} must be [^\n]*$") as told:
            call(**{**MADE[call], name: value})
        assert "hunter2" not in str(told.value) or kind.is_choice


@pytest.mark.parametrize("call", MADE, ids=lambda call: call.__name__)
def test_a_name_that_does_not_exist_is_told_which_was_meant(call: Callable[..., Any]) -> None:
    """By the nearest that there is."""
    if any(each.kind is each.VAR_KEYWORD for each in inspect.signature(call).parameters.values()):
        return
    name = list(hints_of(call))[-1]

    with pytest.raises(UnknownArgumentError, match=rf"did you mean {name}\?"):
        call(**{**MADE[call], f"{name}s": 1})
    with pytest.raises(TypeError, match="has no argument unheard_of: there "):
        call(**{**MADE[call], "unheard_of": 1})


@pytest.mark.parametrize("kind", CALLED, ids=lambda kind: kind.__name__)
def test_the_calls_of_a_class_are_checked_as_its_constructor_is(kind: type) -> None:
    """Each argument of each public method has an annotation that refuses something, and asks it."""
    for name, call in members(kind):
        if name.startswith("_") or not set(inspect.signature(call).parameters) - {"self"}:
            continue
        checked = getattr(call, "__wrapped__", None) is not None
        assert checked or all(kind_of(hint) is ANYTHING for hint in hints_of(call).values()), name


def test_every_public_constructor_is_among_these() -> None:
    """A new class, or function, that takes settings is checked; or it is named here."""
    named = {
        name for name in langchain_convsync.__all__ if f"langchain_convsync.{name}" in CALLABLES
    }
    known = {call.__name__ for call in MADE}
    models = {"Conversation", "ConversationMessage", "InboundEvent", "StateUpdate", "TenantInfo"}
    models |= {"Handoff", "Reply"}
    tools = {"LookupTenant", "GetConversation", "SyncState", "AddMessage", "HandOver"}
    made_by_us = {"Turn", "HandedOver", "Interrupt", "Undelivered", "current_conversation"}
    subclasses = {"AsyncConvSyncCallbackHandler"}
    errors = {name for name in named if name.endswith("Error")}

    assert named - known - models - tools - made_by_us - subclasses - errors == set()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"agent_timeout": "60"}, "pass the number without quotes"),
        ({"on_newer_message": "drop"}, 'must be "answer" or "rerun", not \'drop\''),
        ({"client": ConvSyncClient}, "not the class ConvSyncClient: make one, ConvSyncClient"),
        ({"client": "https://api"}, "not a text: make one, ConvSyncClient"),
        ({"workers": True}, "a whole number, from 0, not True"),
        ({"lease": 0}, "more than 0"),
        ({"store": 5}, "not an object of int: make one, SQLiteEventStore"),
        ({"extractor": "intent"}, "not a text: pass a function of the output, or a Runnable"),
    ],
    ids=str,
)
def test_the_error_says_what_to_do(given: dict[str, Any], told: str) -> None:
    """Also where a type checker would have told."""
    with pytest.raises(ConfigurationError) as refused:
        runner(**given)

    assert told in str(refused.value)


@pytest.mark.parametrize("model", ["gpt-4.1-mini", BaseChatModel])
def test_a_model_is_passed_and_not_made_of_an_abstract_class(model: Any) -> None:
    """A name is no model yet, and BaseChatModel none either."""
    with pytest.raises(ConfigurationError, match=r': pass a chat model, init_chat_model\("…"\)$'):
        llm_extractor(model)
    with pytest.raises(ConfigurationError, match=r": make one, ScriptedChatModel\(…\)$"):
        llm_extractor(ScriptedChatModel)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "name"), [(WAHAReply, "WAHAReply"), (ConvSyncMiddleware, "ConvSyncMiddleware")]
)
def test_an_unknown_argument_is_told_with_the_class(make: Callable[..., Any], name: str) -> None:
    """Not with the method that Python calls."""
    with pytest.raises(UnknownArgumentError, match=f"^{name} has no argument unheard_of"):
        make(unheard_of=1)


@pytest.mark.parametrize("call", ["run", "accept"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Ignored("ack"), "parse_event ignored this delivery: pass what it returns to amend(), or"),
        (OperatorMessage(event_id="1"), "pass it to take_over()"),
    ],
    ids=["ignored", "operator"],
)
def test_what_is_no_event_is_told_where_it_goes(call: str, given: object, told: str) -> None:
    """``parse_event`` returned it, so an event of one's own making would be another mistake."""
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        getattr(runner(), call)(given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("message", "text"), ("body", "text"), ("id", "event_id"), ("message_id", "event_id")),
        *(("phone", "phone_number"), ("number", "phone_number"), ("from_", "phone_number")),
        ("tenant", "subdomain"),
    ],
)
def test_what_others_call_a_field_is_told_by_its_name_here(given: str, meant: str) -> None:
    """Those that only look alike mean something else; and no page of pydantic's helps."""
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?") as refused:
        typing.cast("Any", InboundEvent)(event_id="1", **{given: "x"})

    assert "pydantic.dev" not in str(refused.value)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_runner_opens_and_closes_the_store_that_it_is_told(
    kind: Callable[[Path], Any], tmp_path: Path
) -> None:
    """By its path, or its URL."""
    with runner(store=kind(tmp_path / "convsync.db")):
        pass

    assert (tmp_path / "convsync.db").exists()
    with pytest.raises(Exception, match="closed"):
        runner_store_of(tmp_path)


def runner_store_of(folder: Path) -> None:
    """Use a store after its runner was closed."""
    made = runner(store=folder / "convsync.db")
    made.close()
    made.store.keys().block()


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        (InboundEvent, {"event_id": "1", "phone_numbr": PHONE}, "did you mean phone_number?"),
        (StateUpdate, {"intnt": "order"}, "did you mean intent?"),
        (Media, {"mime": "image/png"}, "did you mean mimetype?"),
        (ServerProfile, {"histori": "sync"}, "did you mean history?"),
        (ConversationRef, {"phone_number": PHONE, "sub_domain": "a"}, "did you mean subdomain?"),
        (LookupTenant, {"clent": None}, "did you mean client?"),
    ],
)
def test_a_field_that_does_not_exist_is_told_which_was_meant(
    model: Callable[..., Any], given: dict[str, Any], told: str
) -> None:
    """It would be left out in silence, and its words or its customer with it."""
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        model(**given)

    assert PHONE not in str(refused.value)


def test_the_words_of_an_event_are_its_text_or_its_content() -> None:
    """LangChain calls it content; both at once would be two texts."""
    event = typing.cast("Any", InboundEvent)
    assert event(event_id="1", content="Hola") == InboundEvent(event_id="1", text="Hola")
    with pytest.raises(ValueError, match="two names of the same: pass one"):
        event(event_id="1", text="Hola", content="Adiós")


@pytest.mark.parametrize("empty", [{}, {"text": " \n"}, {"sender_name": "Ana"}, {"quoted": None}])
def test_an_event_that_says_nothing_is_refused_where_it_is_made(empty: dict[str, Any]) -> None:
    """No model could make sense of it; a file, a place or a note is enough."""
    with pytest.raises(ValueError, match="says nothing: pass text="):
        InboundEvent(event_id="1", phone_number=PHONE, **empty)
    assert InboundEvent(event_id="1", media=Media(mimetype="image/png")).content == "[image]"


def test_what_a_newer_version_stored_is_read() -> None:
    """Its further fields mean nothing here; those of a server's answer neither."""
    event = InboundEvent.model_validate_json('{"event_id": "1", "shade": "blue"}')
    tenant = TenantInfo.model_validate(
        {"subDomain": "a", "botId": "b", "sessionId": "c", "shade": "blue"}
    )

    assert (event.event_id, tenant.subdomain) == ("1", "a")


@pytest.mark.parametrize(
    "decision",
    [
        {"currentIntent": "order", "currentStep": "paying", "isActive": False},
        {"current_intent": "order", "current_step": "paying", "is_active": False},
        SimpleNamespace(currentIntent="order", currentStep="paying", isActive=False),
    ],
)
def test_the_api_servers_own_spellings_decide(decision: Any) -> None:
    """Of whatever decides: an extractor's mapping, or an object."""
    decided = StateUpdate(intent="order", step="paying", is_active=False)

    assert as_update(decision) == decided
    if isinstance(decision, dict):
        assert StateUpdate(**decision) == decided


def test_keys_that_mean_nothing_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """By name, so that a misspelled intent is not looked for in the API server."""
    for _ in range(3):
        run(ask(lambda _: {"intnt": "order", "step": "paying"}, None))

    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 1
    assert "a state update has no field intnt: did you mean intent?" in warned[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvSyncClient(URL, api_key=51999999999),  # type: ignore[arg-type]  # on purpose
        lambda: ConvSyncClient(URL).lookup_tenant(51999999999),  # type: ignore[arg-type]  # on purpose
        lambda: ConvSyncClient(URL, transport="sk-51999999999"),  # type: ignore[arg-type]  # on purpose
        lambda: ConversationRef(51999999999),  # type: ignore[arg-type]  # on purpose
    ],
)
def test_no_error_repeats_a_key_or_a_phone_number(make: Callable[[], object]) -> None:
    """Not even one that was given as a number, or in another's place."""
    with pytest.raises(ConfigurationError) as refused:
        make()

    assert "51999999999" not in str(refused.value)


def test_half_a_character_is_marked_where_an_event_is_made() -> None:
    """A text that was cut in the middle of an emoji is answered all the same."""
    event = InboundEvent(event_id="1", phone_number="+51999999999", text="Hola \ud83d")

    assert event.text == "Hola \ufffd"
