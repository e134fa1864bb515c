"""Memory and state for an agent of ``create_agent``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypeAlias, cast

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.tools import BaseTool, StructuredTool

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient, api_of
from langchain_convsync.errors import (
    APIError,
    ConfigurationError,
    ConvSyncError,
    MissingExtraError,
)
from langchain_convsync.models import ConversationMessage, StateUpdate
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.bounds import recent
from langchain_convsync.surfaces.context import ConversationLike, Identity, current_turn
from langchain_convsync.surfaces.limits import limit_in
from langchain_convsync.surfaces.messages import flaw_in, last_reply, text_of
from langchain_convsync.surfaces.prompts import (
    SYNC_DESCRIPTION,
    SyncStateArgs,
    noted,
    refusal,
    state_section,
    sync_args,
    with_section,
)
from langchain_convsync.surfaces.state import STATE_TYPES, SYNC_TOOL, as_update, extract
from langchain_convsync.surfaces.thread import (
    Watermark,
    ids_of,
    interjection,
    interleaved,
    last_words,
    latest,
)

try:
    from langchain.agents.middleware.types import (
        AgentMiddleware,
        AgentState,
        ModelRequest,
        ModelResponse,
        PrivateStateAttr,
    )
    from langgraph.config import get_config
    from langgraph.runtime import Runtime
except ImportError as error:
    raise MissingExtraError("ConvSyncMiddleware", "agents") from error

logger = logging.getLogger(__name__)

__all__ = ["ConvSyncMiddleware", "ConvSyncState"]

OnError: TypeAlias = Literal["log", "raise"] | Callable[[Exception], object]


class ConvSyncState(AgentState[Any]):
    """The agent's state, with what the middleware keeps for itself.

    Plain values only, and nothing that names the customer: checkpointers store it, tracers export
    it. ``others`` is what the conversation holds and the thread does not, ``watermark`` how far it
    was read; ``pending`` are the customer's words not yet written; ``known`` and ``before`` tell
    what was decided in this run from what was restored.
    """

    convsync: NotRequired[Annotated[dict[str, Any], PrivateStateAttr]]


class ConvSyncMiddleware(AgentMiddleware[ConvSyncState, Any, Any]):
    """Gives an agent its conversation, and writes back what came of it.

    ::

        agent = create_agent(model, tools=[menu], middleware=[ConvSyncMiddleware()])
        with in_conversation("+51999999999"):
            agent.invoke({"messages": [("user", "Quiero una pizza")]})

    Before the agent runs, one read: the model gets the history, and tenant, intent and step in its
    system prompt, marked as data. Afterwards the customer's message and the reply are appended, and
    what was decided is synced once. Inside a ``TurnRunner`` the turn does both, and this does not.

    The history joins each call of the model and never enters the agent's ``messages``: results and
    streams hold this run's messages only. With a checkpointer the thread goes on from there, and
    what others said since, a human colleague for example, joins it in its place; what the thread
    holds itself does not come back. An input that brings its own history gets no other.

    After an interrupt, name the conversation again when you resume: it is not kept in checkpoints.

    Args:
        client: The API server, sync or async; None takes it from the environment.
        conversation: The conversation; None takes that of each run.
        identity: Makes a phone number, chat id or ``ConversationRef`` of the agent's own
            ``runtime.context``; None where that names no conversation.
        sync_tool: Whether the model gets the ``sync_state`` tool. It only notes what the model
            decides; one sync is written after the run.
        intents: The intents to choose from; None takes the client's ``ServerProfile.intents``.
        steps: The steps to choose from; None leaves them to the model.
        prompt_keys: Context keys to tell in the system prompt.
        on_error: What follows when the API server fails: ``"log"`` goes on without history, or
            leaves the answer unrecorded; ``"raise"`` fails the run; a callable gets the error
            and decides. Everything is counted and logged.

    Raises:
        ConfigurationError: ``on_error`` is not one of these, the API server does not accept one
            of ``intents``, or ``client`` is None and the environment names no API server.
    """

    state_schema = ConvSyncState

    def __init__(
        self,
        client: ConvSyncClient | AsyncConvSyncClient | None = None,
        *,
        conversation: ConversationLike | None = None,
        identity: Identity | None = None,
        sync_tool: bool = True,
        intents: Sequence[str] | None = None,
        steps: Sequence[str] | None = None,
        prompt_keys: Collection[str] = (),
        on_error: OnError = "log",
    ) -> None:
        super().__init__()
        if on_error not in {"log", "raise"} and not callable(on_error):
            message = 'on_error must be "log", "raise" or a callable'
            raise ConfigurationError(message)
        self._api = api_of(client)
        self._conversation = conversation
        self._identity = identity
        self._prompt_keys = frozenset(prompt_keys)
        self._on_error = on_error
        choice = sync_args(self._api.profile, intents=intents, steps=steps)
        self.tools = [_sync_tool(choice)] if sync_tool else []

    def before_agent(self, state: ConvSyncState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Read the conversation."""
        return run(self._begin(state, runtime))

    async def abefore_agent(self, state: ConvSyncState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Read the conversation."""
        return await arun(self._begin(state, runtime))

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Tell the model what is on record."""
        return handler(_informed(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Tell the model what is on record."""
        return await handler(_informed(request))

    def after_agent(self, state: ConvSyncState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Write messages and state."""
        return run(self._end(state, runtime))

    async def aafter_agent(self, state: ConvSyncState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Write messages and state."""
        return await arun(self._end(state, runtime))

    def _access(self, runtime: Runtime[Any]) -> Access:
        return Access.to(
            self._api,
            self._conversation,
            context=runtime.context,
            identity=self._identity,
            config=get_config(),
        )

    def _begin(self, state: ConvSyncState, runtime: Runtime[Any]) -> Flow[dict[str, Any]]:
        kept = state.get("convsync") or {}
        notes = {**kept, **_start(state, kept)}
        access = self._access(runtime).within(**notes["tenant"])
        mark = Watermark.of(kept.get("watermark"))
        if self._records_inbound():  # what the customer wrote now may stand there already
            noted = kept.get("pending", {})
            new = [text for key, text in notes["pending"].items() if key not in noted]
            mark = mark.after_saying(_as_users(new))
        try:
            conversation = yield from access.read()
        except APIError as error:
            self._failed(error, "read")
            return {"convsync": {**notes, "watermark": mark.plain()}}
        notes["tenant"] = {"bot_id": conversation.bot_id, "subdomain": conversation.subdomain}
        notes["prompt"] = state_section(conversation, self._prompt_keys)
        others, read = mark.read(conversation.messages)
        notes["watermark"] = read.plain()
        given = access.turn is not None and access.turn.history_given
        given = given or (not kept and _brings_history(state))
        if others and not given:
            held = [] if mark.seen is None else kept["known"]
            added = interjection(recent(others), state["messages"], held=held)
            notes["others"] = latest([*kept.get("others", ()), added])
        return {"convsync": notes}

    def _end(self, state: ConvSyncState, runtime: Runtime[Any]) -> Flow[dict[str, Any]]:
        notes = state.get("convsync") or {}
        known, words = set(notes["known"]), notes["pending"].values()
        fresh = [message for message in state["messages"] if message.id not in known]
        update = extract({**state, "messages": fresh}, baseline=notes["before"])
        if flaw := flaw_in(fresh):  # the caller decides whether to send it; the history is told
            telemetry.count("incomplete_answers")
            logger.warning("The agent's answer is not whole: %s", flaw)
        said = _as_users(words)
        if limit := limit_in({}, fresh):
            telemetry.count("limit_answers")
            logger.warning("A limit ended the agent's run, its words are not recorded: %s", limit)
        elif reply := last_reply(fresh, state.get("structured_response")):
            said.append(ConversationMessage(role="bot", content=reply))
        expected = [each for each in said if each.role == "bot" or not self._records_inbound()]
        mark = Watermark.of(notes["watermark"]).after_saying(expected)
        try:
            access = self._access(runtime).within(**notes["tenant"])
            yield from _write(access, said, update)
        except ConvSyncError as error:
            self._failed(error, "write")
        ended = {"known": ids_of(state["messages"]), "pending": {}, "watermark": mark.plain()}
        return {"convsync": {**notes, **ended}}

    def _records_inbound(self) -> bool:
        """Whether the customer's words are recorded before they are here; a turn hides its own."""
        return self._api.profile.records_inbound and current_turn.get() is None

    def _failed(self, error: Exception, doing: Literal["read", "write"]) -> None:
        telemetry.count("middleware_failures", doing=doing, error=type(error).__name__)
        logger.warning("The conversation could not be synced (%s): %s", doing, error)
        if callable(self._on_error):
            self._on_error(error)
        elif self._on_error == "raise":
            raise error


def _write(access: Access, said: Sequence[ConversationMessage], update: StateUpdate) -> Flow[None]:
    if access.turn is None:  # a turn records what was said by itself
        for message in said:
            yield from access.append(message)
    if update:
        yield from access.decide(update)


def _start(state: ConvSyncState, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What is so when a run begins; the words of a run that failed are still pending."""
    known = kept.get("known", ())
    new = {
        message.id: text_of(message)
        for message in last_words(state["messages"])
        if message.id not in known
    }
    return {
        "known": ids_of(state["messages"]),
        "pending": {**kept.get("pending", {}), **new},
        "before": {key: state.get(key) for key in (*STATE_TYPES, "structured_response")},
        "tenant": kept.get("tenant", {"bot_id": None, "subdomain": None}),
        "prompt": "",
    }


def _as_users(words: Iterable[str]) -> list[ConversationMessage]:
    return [ConversationMessage(role="user", content=text) for text in words if text]


def _brings_history(state: ConvSyncState) -> bool:
    return any(isinstance(message, AIMessage) for message in state["messages"])


def _informed(request: ModelRequest[Any]) -> ModelRequest[Any]:
    """The request with history and state in it."""
    notes: Mapping[str, Any] = cast("ConvSyncState", request.state).get("convsync") or {}
    messages = cast("list[AnyMessage]", interleaved(request.messages, notes.get("others", ())))
    system = with_section(request.system_message, notes.get("prompt", ""))
    return request.override(messages=messages, system_message=system)


def _sync_tool(choice: type[SyncStateArgs]) -> BaseTool:
    """``sync_state`` as a note: it is read from the run's messages when the run ends."""

    def note(**args: Any) -> tuple[str, StateUpdate]:
        update = as_update(args)
        if (turn := current_turn.get()) is not None:
            turn.decide(update)
        return noted(update), update

    return StructuredTool.from_function(
        note,
        name=SYNC_TOOL,
        description=SYNC_DESCRIPTION,
        args_schema=choice,
        response_format="content_and_artifact",
        handle_validation_error=refusal,
    )
