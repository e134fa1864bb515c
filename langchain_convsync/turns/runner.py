"""One turn, effectively once: event in, reply out, everything else in between survives a crash."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeAlias

from langchain_convsync import telemetry, waha
from langchain_convsync._flow import Flow, Io, arun, run, sleep
from langchain_convsync.client import Api, AsyncConvSyncClient, ConvSyncClient, api_of
from langchain_convsync.errors import ClosedError, ConfigurationError
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import Outbox, Replies, Unverifiable, WAHAReply
from langchain_convsync.outbox.journal import Journal, is_journal
from langchain_convsync.stores import EventStore, open_store
from langchain_convsync.stores._metrics import exposition
from langchain_convsync.stores.base import Accepted, Lane, NewEvent, Taken
from langchain_convsync.turns.deliveries import Deliveries
from langchain_convsync.turns.inbox import Inbox
from langchain_convsync.turns.lids import Lids
from langchain_convsync.turns.turn import Outcome, Status, Turn
from langchain_convsync.turns.worker import FIRST_LOOK, LAST_LOOK, Crew

if TYPE_CHECKING:
    from langchain_convsync.state import Extractor
    from langchain_convsync.turns.agent import Agent
    from langchain_convsync.turns.process import Guard, Prepare

logger = logging.getLogger(__name__)

OnReply: TypeAlias = Callable[[Turn], Awaitable[None] | None]


class TurnRunner:
    """Answers inbound events with a LangChain agent: once, in order, for the right tenant.

    ``run`` and ``arun`` record the event durably, run the agent on the conversation, commit the
    reply together with the writes, and deliver the writes to the API server. Calls for one
    conversation queue up; events that wait together are answered together.

    Outside a block a call delivers its turn's writes before it returns. Inside ``with`` or ``async
    with`` it returns as soon as its turn is committed: the block has workers that deliver writes,
    those of dead processes too, and, where ``on_reply`` can send the replies, also answer events
    that nobody waits for. Leaving the block finishes what is under way.

    Args:
        agent: Any Runnable, or a callable that makes one for a tenant's ``ConversationRef``.
            Compiled graphs get ``{"messages": […]}``, others the list of messages.
        client: The API server, in either colour; None takes it from the environment.
        store: Where events and writes live until they are done; None takes it from
            ``CONVSYNC_STORE_URL``.
        extractor: What the agent's output says about the state: output → ``StateUpdate``, mapping
            or None.
        prepare: The agent's input: (conversation, events) → input. An event's ``content`` is what
            the agent reads by default, its ``media`` tells a file's URL and type.
        fallback_reply: What the customer gets when the agent cannot answer; None sends nothing.
        on_reply: Called with each turn that has a reply to send, right after its commit and before
            the API writes. Where it is given, send replies there and only there.
        reply: Sends the replies itself, through WAHA, instead of leaving that to you: each is
            queued with its turn's commit and sent once, whatever is killed.
        quiet: Seconds without a further event before a conversation is answered.
        max_quiet: Seconds after the first event at which it is answered in any case.
        deadline: Seconds that one run of the agent may take.
        max_errors: Runs of the agent that may fail before the fallback is sent.
        max_starts: Runs that may begin without an end (crashes) before the fallback is sent.
        patience: Seconds for which an event waits for an API server that does not answer.
        backlog: Queued events per conversation; beyond, new ones are refused as ``busy``.
        at_once: Turns of one account that may run at the same time, in all processes together; None
            for any number.
        guard: What becomes of a reply if another message came while the agent was running:
            ``answer`` sends it, and the next turn answers the message; ``rerun`` drops it and runs
            the agent on all of them, for at most ``deadline`` seconds after the first message.
        unverifiable: What becomes of a message that got no answer from the API server, when the
            history does not reach back far enough any more to tell whether it was recorded:
            ``park`` keeps it for an operator, ``resend`` may double it, ``skip`` may lose it.
        lease: Seconds after which another process takes over from one that died.
        workers: How many conversations a block writes for at once, and how many it answers at once
            besides its calls.
        drain: Seconds that a call, or leaving the block, may spend on finishing; what is left then
            stays in the store.

    Raises:
        ConfigurationError: The agent is not callable, client or store are configured nowhere, or
            both ``on_reply`` and ``reply`` are given.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        client: ConvSyncClient | AsyncConvSyncClient | None = None,
        store: EventStore | None = None,
        extractor: Extractor | None = None,
        prepare: Prepare | None = None,
        fallback_reply: str | None = None,
        on_reply: OnReply | None = None,
        reply: WAHAReply | None = None,
        quiet: float = 0.0,
        max_quiet: float = 5.0,
        deadline: float = 120.0,
        max_errors: int = 3,
        max_starts: int = 5,
        patience: float = 900.0,
        backlog: int = 1000,
        at_once: int | None = None,
        guard: Guard = "answer",
        unverifiable: Unverifiable = "park",
        lease: float = 30.0,
        workers: int = 4,
        drain: float = 10.0,
    ) -> None:
        # LangChain takes a while to import; who has an agent, has it already.
        from langchain_convsync.turns.process import Limits, Processor

        if on_reply is not None and reply is not None:
            message = "reply= sends the replies, and on_reply= would send them again: pass one"
            raise ConfigurationError(message)
        self._api: Api = api_of(client)
        self._owns_api = client is None
        self.store: EventStore = open_store(None) if store is None else store
        self._owns_store = store is None
        self._on_reply = on_reply
        self._inbox = Inbox(
            self.store,
            lease=lease,
            quiet=quiet,
            max_quiet=max_quiet,
            backlog=backlog,
            at_once=at_once or 0,
        )
        outbox = Outbox(self._api, self.store, lease=lease, unverifiable=unverifiable)
        replies = None if reply is None else Replies(reply, self.store, lease=lease)
        self._deliveries = Deliveries(self.store, outbox, replies, lease=lease, budget=drain)
        self._sends = reply is not None or on_reply is not None
        limits = Limits(
            fallback_reply=fallback_reply,
            deadline=deadline,
            max_errors=max_errors,
            max_starts=max_starts,
            patience=patience,
            lease=lease,
            guard=guard,
        )
        self._processor = Processor(
            agent,
            self._api,
            self.store,
            breaker=outbox.breaker,
            extractor=extractor,
            prepare=prepare,
            limits=limits,
            lids=Lids(self.store, None if reply is None else reply.waha),
            says=reply is not None,
        )
        self._workers = workers
        self._crew: Crew | None = None
        self._closed = False

    @property
    def sends_replies(self) -> bool:
        """Whether this runner sends the replies, so that workers may answer events too."""
        return self._sends

    @property
    def is_at_work(self) -> bool:
        """Whether the runner is inside its block, so that its workers answer what is accepted."""
        return self._crew is not None and not self._closed

    def run(self, event: InboundEvent, wait: float | None = None) -> Turn:
        """Answer an event, or tell what became of it.

        Args:
            event: The event; give every delivery of one message the same ``event_id``.
            wait: Seconds to wait while another call or process works on the conversation, and for
                the quiet window; None waits until the event is done.

        Returns:
            The turn. Send ``turn.reply`` where ``turn.status`` is ``answered`` or ``failed``, and
            only there: one call per turn gets that status.

        Raises:
            InvalidEventError: The event names no customer.
            StoreError: The store did not take the event; deliver it again.
            ClosedError: The runner is closed.
        """
        return run(self._run(event, wait))

    async def arun(self, event: InboundEvent, wait: float | None = None) -> Turn:
        """:meth:`run` on the running event loop."""
        return await arun(self._run(event, wait))

    def accept(self, event: InboundEvent) -> Turn:
        """Record an event, for the workers to answer; a webhook has to be answered at once.

        Returns:
            ``queued``; or ``duplicate``, with what was said; or ``busy``, and nothing is recorded.

        Raises:
            InvalidEventError: The event names no customer.
            StoreError: The store did not take the event; have it delivered again.
            ClosedError: The runner is closed.
        """
        return run(self._accept(event))

    async def aaccept(self, event: InboundEvent) -> Turn:
        """:meth:`accept` on the running event loop."""
        return await arun(self._accept(event))

    def _accept(self, event: InboundEvent) -> Flow[Turn]:
        self._require_open()
        new = yield from self._inbox.named(event)
        accepted = yield from self._inbox.offer(new, take=False)
        self._ring("turn")
        if accepted.status == "busy":
            return Turn(status="busy")
        return Turn(status="queued") if accepted.state == "queued" else _repeated(accepted)

    def pause(self, customer: str, *, seconds: float, account: str = "default") -> None:
        """Give a conversation to a human: what the customer writes is recorded, not answered.

        The agent answers again after ``seconds``, or after :meth:`resume`; what was written
        meanwhile it finds in the history. A reply that it is working on is dropped.

        Args:
            customer: The customer's phone number, or chat id.
            seconds: For how long, from now; the latest call wins.
            account: The receiving side, as in :class:`InboundEvent`.

        Raises:
            InvalidPhoneNumberError: ``customer`` is neither.
        """
        run(self._inbox.pause(customer, account, seconds))

    async def apause(self, customer: str, *, seconds: float, account: str = "default") -> None:
        """:meth:`pause` on the running event loop."""
        await arun(self._inbox.pause(customer, account, seconds))

    def resume(self, customer: str, *, account: str = "default") -> None:
        """Let the agent answer a conversation again, from the customer's next message on."""
        run(self._inbox.pause(customer, account, 0.0))

    async def aresume(self, customer: str, *, account: str = "default") -> None:
        """:meth:`resume` on the running event loop."""
        await arun(self._inbox.pause(customer, account, 0.0))

    def take_over(self, message: waha.OperatorMessage, *, seconds: float) -> bool:
        """A human wrote to a customer from the business's own phone: the conversation is theirs.

        The words enter the history, and the agent is paused for so many seconds from now. WAHA now
        and then reports what ``WAHAReply`` sent as a human's: that is recognised by its id, or by
        its words while nobody knows its id, and only noted as an echo.

        Returns:
            Whether it was a human.

        Raises:
            InvalidEventError: The message names no customer.
            StoreError: The store did not take it; have it delivered again.
        """
        return run(self._take_over(message, seconds))

    async def atake_over(self, message: waha.OperatorMessage, *, seconds: float) -> bool:
        """:meth:`take_over` on the running event loop."""
        return await arun(self._take_over(message, seconds))

    def _take_over(self, message: waha.OperatorMessage, seconds: float) -> Flow[bool]:
        self._require_open()
        taken_over = yield from self._inbox.take_over(message, seconds)
        self._ring("turn" if taken_over else "say")
        return taken_over

    def amend(self, change: waha.Ignored) -> bool:
        """A customer edited or took back a message: apply that while the message waits.

        An edit replaces its text. One that was taken back is neither answered nor recorded; a turn
        of which nothing is left ends as ``dropped``, without a run of the agent. A turn that is
        running has read the words already and goes on with them, unless it has to begin again; what
        was answered stays as it was, since the API server has no call to change it. All of them are
        counted as ``amendments``, by their outcome.

        Args:
            change: ``waha.Ignored`` with the reason ``edited`` or ``revoked``; others are nothing.

        Returns:
            Whether the message was waiting.

        Raises:
            StoreError: The store did not take it; have it delivered again.
        """
        return run(self._amend(change))

    async def aamend(self, change: waha.Ignored) -> bool:
        """:meth:`amend` on the running event loop."""
        return await arun(self._amend(change))

    def _amend(self, change: waha.Ignored) -> Flow[bool]:
        self._require_open()
        if change.reason not in {"edited", "revoked"}:
            return False
        waited = yield from self._inbox.amend(change)
        outcome = "applied" if waited else "too late"
        telemetry.count("amendments", what=change.reason, outcome=outcome)
        return waited

    def note_echo(self, echo: waha.Ignored | waha.OperatorMessage) -> bool:
        """Take one of our own messages, as WAHA's webhook reports it, as proof that it was sent.

        So a reply whose sending got no clear answer need not be looked for in the chat. Needs the
        webhook event ``message.any``; give every own message that ``waha.parse_event`` finds.

        Returns:
            Whether a reply in this conversation was waiting for a sign.
        """
        return run(self._inbox.hear(echo))

    async def anote_echo(self, echo: waha.Ignored | waha.OperatorMessage) -> bool:
        """:meth:`note_echo` on the running event loop."""
        return await arun(self._inbox.hear(echo))

    def metrics(self) -> str:
        """All metrics of this process, and what its store has to do now, as Prometheus reads them.

        For a route of your own, with the content type ``telemetry.CONTENT_TYPE``.
        """
        return run(exposition(self.store))

    async def ametrics(self) -> str:
        """:meth:`metrics` on the running event loop."""
        return await arun(exposition(self.store))

    def _run(self, event: InboundEvent, wait: float | None) -> Flow[Turn]:
        self._require_open()
        new = yield from self._inbox.named(event)
        until = None if wait is None else time.monotonic() + wait
        turn, cid = yield from self._settle(new, until)
        yield from self._tell(turn)
        if self._crew is None:
            yield from self._deliveries.drain(cid)
        else:
            self._crew.hurry(cid, "say", "write")
        return turn

    def _tell(self, turn: Turn) -> Flow[None]:
        telemetry.count("turns", status=turn.status)
        if turn.status in {"answered", "failed"} and turn.reply and self._on_reply is not None:
            with telemetry.timed("turn_phase", phase="reply"):
                yield from _notify(self._on_reply, turn)

    def _settle(self, new: NewEvent, until: float | None) -> Flow[tuple[Turn, str]]:
        """Offer the event until it is done: by this call's own turn, or by another's."""
        first: Accepted | None = None
        look = FIRST_LOOK
        while True:
            accepted = yield from self._inbox.offer(new)
            first = first or accepted
            if accepted.taken is not None:
                turn = yield from self._processor.process(accepted.taken)
                if turn is not None:
                    return turn, accepted.cid
                continue  # fenced, or to be tried again: see what became of it
            if accepted.status == "busy":
                return Turn(status="busy"), accepted.cid
            if accepted.state != "queued":
                status: Status = "merged" if first.status == "new" else "duplicate"
                return _repeated(accepted, status), accepted.cid
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return Turn(status="queued"), accepted.cid
            pause = min(look, accepted.due_in or look)
            yield from sleep(pause if left is None else min(pause, left))
            look = min(LAST_LOOK, look * 2)

    def _new_crew(self) -> Crew:
        if self._closed or self._crew is not None:
            message = "a TurnRunner serves one block; make a new one"
            raise ClosedError(message)
        telemetry.connect()
        work = dict(self._deliveries.work)
        if self.sends_replies:
            work["turn"] = self._work_turn
        self._crew = Crew(
            self.store,
            work,
            hands=self._workers,
            lease=self._inbox.lease,
            at_once=self._inbox.at_once,
        )
        return self._crew

    def _ring(self, *lanes: Lane) -> None:
        """The workers need not wait until they look for work the next time: here it is."""
        if self._crew is not None:
            self._crew.ring(*lanes)

    def _require_open(self) -> None:
        if self._closed:
            message = "this TurnRunner is closed: make a new one"
            raise ClosedError(message)

    def _work_turn(self, taken: Taken) -> Flow[None]:
        if is_journal(taken):  # what a surface wrote by itself: nobody is to be answered
            yield from Journal(self._api, self.store).commit(taken)
            return
        turn = yield from self._processor.process(taken)
        if turn is not None:
            yield from self._tell(turn)
            if self._crew is not None:
                self._crew.hurry(taken.lease.cid, "say", "write")

    def close(self) -> None:
        """Close what this runner opened itself."""
        self._closed = True
        if self._owns_api:
            self._api.close()
        if self._owns_store:
            self.store.close()

    async def aclose(self) -> None:
        """Close what this runner opened itself, in both colours."""
        self._closed = True
        if self._owns_api:
            await self._api.aclose()
        if self._owns_store:
            await self.store.aclose()

    def __enter__(self) -> Self:
        self._new_crew().start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._crew is not None:
                self._crew.stop(self._deliveries.budget)
            run(self._deliveries.finish())
        finally:
            self.close()

    async def __aenter__(self) -> Self:
        await self._new_crew().astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._crew is not None:
                await self._crew.astop(self._deliveries.budget)
            await arun(self._deliveries.finish())
        finally:
            await self.aclose()

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """The block as an ASGI lifespan: ``FastAPI(lifespan=runner.lifespan)``."""
        async with self:
            yield


def _repeated(accepted: Accepted, status: Status = "duplicate") -> Turn:
    """What a turn made of an event before."""
    if accepted.outcome is None:
        return Turn(status=status)
    return Outcome.model_validate_json(accepted.outcome).turn(status)


def _notify(on_reply: OnReply, turn: Turn) -> Flow[None]:
    """Tell the caller; the turn is committed, so a failing callback cannot undo it."""

    def block() -> None:
        result = on_reply(turn)
        if isinstance(result, Awaitable):
            message = "on_reply is async: use arun(), or pass a plain function"
            raise TypeError(message)

    async def wait() -> None:
        result = on_reply(turn)
        if isinstance(result, Awaitable):
            await result

    try:
        yield from Io(block, wait)
    except Exception:
        telemetry.count("on_reply_failures")
        logger.exception("on_reply failed for turn %s", turn.turn_id)
