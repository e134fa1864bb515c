"""Memory and state for an agent of ``create_agent``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, TypeAlias
from uuid import UUID

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.tools import BaseTool, StructuredTool, ToolException

from langchain_convsync import telemetry
from langchain_convsync._checked import Count, checked
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync._forks import Unpicklable
from langchain_convsync._platform import token
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient, api_of
from langchain_convsync.errors import (
    APIError,
    ConvSyncError,
    MissingExtraError,
)
from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.bounds import MOST_MESSAGES
from langchain_convsync.surfaces.context import (
    ConversationLike,
    ConversationRef,
    Identity,
    current_turn,
    key_for_logs,
)
from langchain_convsync.surfaces.limits import limit_in
from langchain_convsync.surfaces.messages import cut_off, flaw_in, last_reply, messages_of
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
from langchain_convsync.surfaces.thread import Watermark, as_users, joined, with_ids

try:
    from langchain.agents.middleware.types import (
        AgentMiddleware,
        AgentState,
        ModelRequest,
        ModelResponse,
        ToolCallRequest,
    )
    from langgraph.config import get_config
    from langgraph.runtime import Runtime, get_runtime
    from langgraph.types import Command

    from langchain_convsync.middleware._exchange import Exchange, Share, Work
    from langchain_convsync.middleware._notes import Memory
    from langchain_convsync.middleware._repeats import answer_to_repeated
    from langchain_convsync.middleware._runs import RUNS
    from langchain_convsync.middleware._seat import (
        Seat,
        changed,
        end_of_words,
        without,
    )
except ImportError as error:
    raise MissingExtraError("ConvSyncMiddleware", "agents") from error

logger = logging.getLogger(__name__)

__all__ = ["ConvSyncMiddleware"]

_Called: TypeAlias = ToolMessage | Command[Any]
OnError: TypeAlias = Literal["log", "raise"] | Callable[[Exception], object]


class ConvSyncMiddleware(AgentMiddleware[AgentState[Any], Any, Any], Unpicklable):
    """Gives an agent its conversation, and writes back what came of it.

    ::

        agent = create_agent(model, tools=[menu], middleware=[ConvSyncMiddleware()])
        with in_conversation("+51999999999"):
            agent.invoke({"messages": [("user", "Quiero una pizza")]})

    Before the agent runs, one read: what the conversation holds and the thread does not joins the
    agent's ``messages``, and tenant, intent and step its system prompt, marked as data. Afterwards
    the customer's message and the reply are appended, and what was decided is synced once. Inside a
    ``TurnRunner`` the turn does both, and this does not.

    What joined is in the results, too, and other middleware sees it, whichever comes first: a
    summary condenses it, a hook of yours may redact it (``PIIMiddleware`` looks at nothing older
    than the customer's last words). With a checkpointer the thread goes on from there, and what
    others said since, a human colleague for example, joins it before the customer's next words. An
    input that brings its own history gets no other.

    An agent may be a node of a graph, a tool of another agent, or hand the customer over in the
    middle of its run: the outermost graph's run is one exchange with the customer, recorded once at
    its end. Agents inside it see the history; it is in their own results only, not in those of the
    graph around them.

    What has to outlive a run (words not written yet, what is recorded, what was decided) is kept
    beside the thread by its checkpointer, and goes with it: no state, stream or result holds it.
    Without a checkpointer it lives as long as the run.

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
        history_limit: Messages of the history that join a run at most. The oldest are left out, and
            what is left begins with the customer's words wherever they said anything in it.
        limit: The same by its name in ``ConvSyncChatMessageHistory``; wins where it is given.
        on_error: What follows when the API server fails: ``"log"`` goes on without history, or
            leaves the answer unrecorded; ``"raise"`` fails the run; a callable gets the error
            and decides. Everything is counted and logged.

    Raises:
        ConfigurationError: ``on_error`` is not one of these, ``history_limit`` is less than 1, the
            API server does not accept one of ``intents``, or ``client`` is None and the environment
            names no API server.
        InvalidPhoneNumberError: ``conversation`` is not a customer id.
    """

    @checked
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
        history_limit: Count = MOST_MESSAGES,
        limit: Count | None = None,
        on_error: OnError = "log",
    ) -> None:
        super().__init__()
        if conversation is not None:
            ConversationRef.of(conversation)
        self._api = api_of(client)
        self._conversation = conversation
        self._identity = identity
        self._prompt_keys = frozenset(prompt_keys)
        self._history_limit = history_limit if limit is None else limit
        self._on_error = on_error
        choice = sync_args(self._api.profile, intents=intents, steps=steps)
        self.tools = [self._sync_tool(choice)] if sync_tool else []

    def before_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Read the conversation; what the thread does not hold of it joins it."""
        return run(self._begin(state, runtime.context))

    async def abefore_agent(
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Read the conversation; what the thread does not hold of it joins it."""
        return await arun(self._begin(state, runtime.context))

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Tell the model what is on record."""
        informed, work = run(self._informed(request))
        return _watched(handler(informed), work)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Tell the model what is on record."""
        informed, work = await arun(self._informed(request))
        return _watched(await handler(informed), work)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], _Called]
    ) -> _Called:
        """Run a tool, unless the model only repeats its calls."""
        repeated = answer_to_repeated(request)
        return handler(request) if repeated is None else repeated

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[_Called]]
    ) -> _Called:
        """Run a tool, unless the model only repeats its calls."""
        repeated = answer_to_repeated(request)
        return await handler(request) if repeated is None else repeated

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Write messages and state."""
        return run(self._end(state, runtime.context))

    async def aafter_agent(
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Write messages and state."""
        return await arun(self._end(state, runtime.context))

    def _enter(self, context: object) -> Flow[Seat]:
        """This agent's place in the exchange, as far as it is known in this process or kept."""
        config = get_config()
        access = Access.to(
            self._api, self._conversation, context=context, identity=self._identity, config=config
        )
        exchange, graph = _exchange_of(config)
        share = exchange.share(access.ref, Memory(config))
        yield from share.load(exchange)
        access = access.within(**share.notes.tenant)
        namespace = str(config["configurable"].get("checkpoint_ns", "")).rpartition("|")[0]
        work = None
        if graph in exchange.works:
            _, work = exchange.works[graph]
        elif exchange.goes_on and (kept := share.notes.agents.get(namespace)):
            work = Work(**kept)
            exchange.works[graph] = share, work
        seat = Seat(access, exchange, share, graph, namespace, work)
        share.owned = share.owned or seat.is_outermost
        return seat

    def _begin(self, state: AgentState[Any], context: object) -> Flow[dict[str, Any] | None]:
        seat = yield from self._enter(context)
        share = seat.share
        before = {key: state.get(key) for key in (*STATE_TYPES, "structured_response")}
        work = Work(before)
        thread = with_ids(state["messages"])
        words = share.hear(seat.exchange, thread, outermost=seat.is_outermost)
        self._owe(seat, words)
        try:
            conversation = yield from self._read(seat)
        except APIError as error:
            yield from share.save()  # should that end the run, the next one writes its words
            self._failed(error, "read")
            whole = thread
            if seat.is_outermost:
                mark = Watermark.of(share.notes.watermark)
                share.notes.watermark = mark.after_saying(as_users(words.values())).plain()
        else:
            work.prompt = state_section(share.present(conversation), self._prompt_keys)
            own = seat.unmixed(conversation, thread)
            others = seat.others(
                conversation,
                own,
                words,
                recorded_inbound=self._records_inbound(),
                most=self._history_limit,
            )
            whole = joined(own, others, most=self._history_limit)
        held = {message.id for message in thread}
        work.known = [str(message.id) for message in whole]
        work.joined = [key for key in work.known if key not in held]
        seat.exchange.works[seat.graph] = share, work
        share.notes.agents[seat.namespace] = asdict(work)
        yield from share.save()
        return changed(state["messages"], whole)

    def _read(self, seat: Seat) -> Flow[Conversation]:
        """The conversation: once in an exchange, whichever agent asks first."""
        share = seat.share
        if seat.access.turn is not None or share.conversation is None:
            share.conversation = yield from seat.access.read()
            seen = share.conversation
            share.notes.tenant = {"bot_id": seen.bot_id, "subdomain": seen.subdomain}
        return share.conversation

    def _informed(self, request: ModelRequest[Any]) -> Flow[tuple[ModelRequest[Any], Work]]:
        """The request with the state of the conversation in its system prompt."""
        exchange, graph = _exchange_of(get_config())
        if graph in exchange.works:
            _, work = exchange.works[graph]
        else:
            seat = yield from self._enter(request.runtime.context)
            work = seat.work or Work()
        system = with_section(request.system_message, work.prompt)
        messages = _with_files(request.messages)
        return request.override(system_message=system, messages=messages), work

    def _note(self, update: StateUpdate) -> Flow[None]:
        """Note what the model decided when it does: later its messages may be condensed."""
        exchange, graph = _exchange_of(ensure_config())
        if graph in exchange.works and exchange.works[graph][1].is_cut_off:
            message = "Not noted: your message was cut off. Call the tool again."
            raise ToolException(message)
        if (turn := current_turn.get()) is not None:
            turn.decide(update)
            return
        if graph is None and exchange.root is None:
            return  # called by itself, outside of any run
        if graph in exchange.works:
            share, _ = exchange.works[graph]
        else:
            share = (yield from self._enter(get_runtime().context)).share
        share.decide(update)
        yield from share.save()

    def _end(self, state: AgentState[Any], context: object) -> Flow[dict[str, Any] | None]:
        seat = yield from self._enter(context)
        share, turn, messages = seat.share, seat.access.turn, list(state["messages"])
        if (work := seat.work) is None:  # another hook has jumped over our first one
            before = with_ids(messages[: end_of_words(messages)])
            self._owe(seat, share.hear(seat.exchange, before, outermost=seat.is_outermost))
            work = Work(known=[str(message.id) for message in before])
        known = set(work.known)
        fresh = [message for message in messages if message.id not in known]
        if flaw := flaw_in(fresh):  # the caller decides whether to send it; the history is told
            telemetry.count("incomplete_answers")
            told, key = "the agent's answer is not whole: %s", key_for_logs()
            telemetry.log(logger, logging.WARNING, key, told, flaw)
        decided = turn.update if turn is not None else share.decided
        update = extract({**state, "messages": fresh}, baseline=work.before, noted=decided)
        if turn is not None:
            turn.decide(update)
        else:
            share.decide(update)
        _say(share, fresh, state.get("structured_response"))
        share.reread(messages)
        if seat.is_outermost:
            yield from self._record(share, seat.access)
            return None
        if turn is None:
            share.ref, share.ending = seat.access.ref, self._finish
        share.notes.agents.pop(seat.namespace, None)
        yield from share.save()
        return without(messages, set(work.joined))

    def _owe(self, seat: Seat, words: Mapping[str, str]) -> None:
        """The customer's words are to be written at the end; a turn does that by itself."""
        seat.share.owe(words if seat.access.turn is None else dict.fromkeys(words, ""))

    def _finish(self, share: Share, output: object) -> Flow[None]:
        """Record an exchange at the end of a graph that is none of ours."""
        messages = messages_of(output)
        structured = output.get("structured_response") if isinstance(output, Mapping) else None
        share.reread(messages)
        _say(share, messages, structured)
        if not messages and isinstance(output, str) and output.strip():
            share.reply = "", output
        ref = replace(share.ref, session_id=None)
        yield from self._record(share, Access(self._api, ref, None))

    def _record(self, share: Share, access: Access) -> Flow[None]:
        """Write what was said and decided; what is written is noted, should this be run again."""
        notes, (key, reply) = share.notes, share.reply
        access.before = share.conversation
        try:
            if access.turn is None and notes.open:
                for own, text in list(notes.pending.items()):
                    if text:
                        yield from access.append(ConversationMessage(role="user", content=text))
                    notes.written(own)
                    yield from share.save()
                if reply and (not key or key != notes.replied):
                    yield from access.append(ConversationMessage(role="bot", content=reply))
                    notes.replied = key
                    yield from share.save()
            if update := share.decided:
                yield from access.decide(update)
        except ConvSyncError as error:
            self._failed(error, "write")
        if notes.watermark is not None and reply and (access.turn is not None or notes.open):
            said = [ConversationMessage(role="bot", content=reply)]
            notes.watermark = Watermark.of(notes.watermark).after_saying(said).plain()
        notes.close()
        yield from share.save()

    def _records_inbound(self) -> bool:
        """Whether the customer's words are recorded before they are here; a turn hides its own."""
        return self._api.profile.records_inbound and current_turn.get() is None

    def _failed(self, error: Exception, doing: Literal["read", "write"]) -> None:
        telemetry.count("middleware_failures", doing=doing, error=type(error).__name__)
        told = "the conversation could not be synced (%s): %s"
        telemetry.log(logger, logging.WARNING, key_for_logs(), told, doing, error)
        if callable(self._on_error):
            self._on_error(error)
        elif self._on_error == "raise":
            raise error

    def _sync_tool(self, choice: type[SyncStateArgs]) -> BaseTool:
        """``sync_state`` as a note, kept when it is made and synced when the exchange ends."""

        def note(**args: Any) -> tuple[str, StateUpdate]:
            update = as_update(args)
            run(self._note(update))
            return noted(update), update

        async def anote(**args: Any) -> tuple[str, StateUpdate]:
            update = as_update(args)
            await arun(self._note(update))
            return noted(update), update

        return StructuredTool.from_function(
            note,
            anote,
            name=SYNC_TOOL,
            description=SYNC_DESCRIPTION,
            args_schema=choice,
            response_format="content_and_artifact",
            handle_tool_error=True,
            handle_validation_error=refusal,
        )


def _say(share: Share, messages: Sequence[BaseMessage], structured: object) -> None:
    """Note the reply that a run ended with, unless those are the words of a limit."""
    if limit := limit_in({}, messages):
        telemetry.count("limit_answers")
        told = "a limit ended the agent's run, its words are not recorded: %s"
        telemetry.log(logger, logging.WARNING, key_for_logs(), told, limit)
        share.reply = "", ""
    elif messages and (reply := last_reply(messages, structured)):
        share.reply = _key(messages[-1]), reply


def _watched(response: ModelResponse[Any], work: Work) -> ModelResponse[Any]:
    """The response; of a call that was cut off, half of the arguments may be missing."""
    work.is_cut_off = any(cut_off(message) for message in response.result)
    return response


def _with_files(thread: list[Any]) -> list[Any]:
    """The thread as a turn's model reads it: with the files that came along, not kept there."""
    turn = current_turn.get()
    if turn is None or not turn.files:
        return thread
    told = []
    for message in thread:
        if (files := turn.files.get(message.id or "")) and isinstance(message.content, str):
            words = [{"type": "text", "text": message.content}] if message.content else []
            message = message.model_copy(update={"content": [*words, *files]})  # noqa: PLW2901
        told.append(message)
    return told


def _exchange_of(config: RunnableConfig) -> tuple[Exchange, UUID | None]:
    return RUNS.of(getattr(config.get("callbacks"), "parent_run_id", None))


def _key(message: BaseMessage) -> str:
    return message.id or token()
