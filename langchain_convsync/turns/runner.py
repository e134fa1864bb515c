"""One turn, effectively once: event in, reply out, everything else in between survives a crash."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, NoReturn, Self, TypeAlias

from langchain_convsync import _forks
from langchain_convsync._checked import (
    ELSEWHERE,
    Advice,
    Count,
    CountOrZero,
    PositiveSeconds,
    Range,
    Seconds,
    checked,
)
from langchain_convsync._flow import arun, is_async, run, running_loop
from langchain_convsync._lazy import module_on_first_use
from langchain_convsync.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_convsync import client as clients
    from langchain_convsync import models, outbox, settings, stores, waha
    from langchain_convsync import reply as bot
    from langchain_convsync.surfaces import state
    from langchain_convsync.turns import (
        agents,
        engine,
        media,
        parts,
        process,
        resuming,
        saying,
        worker,
    )
    from langchain_convsync.turns import turn as turns
else:  # what a turn needs is long in importing, and a runner may be named before there is an agent
    bot = module_on_first_use("langchain_convsync.reply")
    clients = module_on_first_use("langchain_convsync.client")
    models = module_on_first_use("langchain_convsync.models")
    outbox = module_on_first_use("langchain_convsync.outbox")
    settings = module_on_first_use("langchain_convsync.settings")
    state = module_on_first_use("langchain_convsync.surfaces.state")
    stores = module_on_first_use("langchain_convsync.stores")
    waha = module_on_first_use("langchain_convsync.waha")
    agents = module_on_first_use("langchain_convsync.turns.agents")
    engine = module_on_first_use("langchain_convsync.turns.engine")
    media = module_on_first_use("langchain_convsync.turns.media")
    parts = module_on_first_use("langchain_convsync.turns.parts")
    process = module_on_first_use("langchain_convsync.turns.process")
    resuming = module_on_first_use("langchain_convsync.turns.resuming")
    saying = module_on_first_use("langchain_convsync.turns.saying")
    turns = module_on_first_use("langchain_convsync.turns.turn")

#: Seconds for which a run may wait for a human, where it does not for as long as it takes: a year.
LONGEST_TIMEOUT = 366 * 24 * 3600.0
Patience: TypeAlias = Annotated[float, Range("a number of seconds", 0, LONGEST_TIMEOUT, above=True)]


@checked
class TurnRunner(_forks.Unpicklable):
    """Answers inbound events with a LangChain agent: once, in order, for the right tenant.

    ``run`` and ``arun`` record the event durably, run the agent on the conversation, commit the
    reply together with the writes, and deliver the writes to the API server. Calls for one
    conversation queue up; events that wait together are answered together.

    Outside a block a call delivers its turn's writes before it returns. Inside ``with`` or ``async
    with`` it returns as soon as its turn is committed: the block has workers that deliver writes,
    those of dead processes too, and, where ``on_reply`` can send the replies, also answer events
    that no caller waits for. Leaving the block finishes what is under way. It may be entered again.

    Args:
        agent: Any Runnable, or a plain callable that makes one for a ``Tenant``, once per tenant;
            where it reads what only a conversation has, for each turn's ``ConversationRef``.
            Compiled graphs get ``{"messages": […]}``, others the list of messages.
        client: The API server, sync or async; None takes it from the environment.
        store: Where events and writes live until they are done: a store of yours, or the URL or
            path of one, which the runner opens and closes; else ``CONVSYNC_STORE_URL``.
        extractor: What the agent's output says about the state: output → ``StateUpdate``, mapping
            or None.
        prepare: The agent's input: (conversation, events) → input. An event's ``content`` is what
            the agent reads by default, its ``media`` tells a file's URL and type. LangGraph's
            ``Command(resume=…)`` answers what the agent waits for.
        media: What the agent is given of images, audio, PDFs and other documents: ``text`` is a
            line that names them, ``blocks`` are LangChain's content blocks, loaded from the WAHA of
            ``reply``, else from the environment's (``CONVSYNC_WAHA_BASE_URL``).
        transcribe: Makes words of a voice message: (bytes, MIME type) → text; it may be async. Once
            per message, whatever crashes afterwards; the words enter the history.
        context: The ``runtime.context`` of each run of a graph: a plain function of the turn's
            ``ConversationRef``. For a ``RemoteGraph`` it must not tell the customer's number.
        resume: Answers what the agent waits for, where that is no question to the customer: called
            with (interrupts, events) whenever the customer has written meanwhile; it may be async.
            A value resumes the run, together with what the customer wrote; None leaves it waiting.
        interrupt_timeout: Seconds for which it waits for a human; then it goes on with a refusal.
            None: for as long as it takes.
        silent_marker: What a plain chain, or a model by its prompt, answers where it says nothing,
            such as ``"[silent]"``: the customer's words are recorded, and nothing is sent, as with
            ``Reply.silent``. Beside other words it is left out of what is sent.
        budget: Asked before each run of the agent whether it may cost something: (the turn's
            ``ConversationRef``, tokens that its conversation took since midnight in UTC, as in
            ``Turn.usage``) → None to go ahead, else why not; it may be async. A refused turn is
            ``failed``: the customer gets ``fallback_reply``, the reason is in the dead letter. A
            ``Reply`` is said instead of what the agent would say, and may hand over.
        on_handoff: Told of each conversation that its agent hands over to a human, by the
            ``handoff`` tool or a ``Reply``: a ``HandedOver`` → None; it may be async. At least
            once, with a key, whatever crashes; it is told again while it fails.
        handoff_pause: Seconds for which such a conversation is paused; :meth:`resume` ends that.
        fallback_reply: What the customer gets when the agent cannot answer; None sends nothing.
        on_reply: Called with each turn that has a reply to send, right after its commit and before
            the API writes. Where it is given, send replies there and only there.
        reply: Sends the replies itself, through WAHA, instead of leaving that to you: each is
            queued with its turn's commit and sent once, whatever is killed.
        on_undelivered: Called with each reply that did not arrive, an ``Undelivered``: it becomes a
            dead letter, or WhatsApp reports an error by ``message.ack``. It may be async. After a
            crash it may be told the same reply again: its ``key`` is the same.
        reply_timeout: Seconds for which WAHA may fail at sending a reply, before it is a dead
            letter with WAHA's own words and the conversation's next reply goes on. What it refuses
            for good is one at once; while WAHA is away the reply waits until it expires.
        debounce: Seconds without a further event before a conversation is answered.
        max_debounce: Seconds after the first event at which it is answered in any case.
        agent_timeout: Seconds that one run of the agent may take.
        max_errors: Runs of the agent that may fail before the fallback is sent.
        max_starts: Runs that may begin without an end (crashes) before the fallback is sent.
        conversation_timeout: Seconds for which an event waits for an API server that does not
            answer.
        max_queued: Queued events per conversation; beyond, new ones are refused as ``busy``.
        max_age: Seconds after which a message is not answered any more, by when it was sent: it is
            recorded, and its turn ``stale``. One that comes with a newer one is answered. None: any
            age; but a webhook of ``create_app`` ignores what is older than the store's retention,
            since it may have been answered and forgotten.
        max_turns_per_minute: Turns of one conversation that are answered within a minute. Beyond,
            and where long messages repeat themselves, another machine answers: the turn is recorded
            as ``paused`` and kept as a dead letter, and the conversation paused for a minute, then
            for two, up to a day. None: any number.
        automatic_texts: What the WhatsApp Business app sends by itself, away and greeting messages
            and quick replies say: these words are recorded, and no human's takeover. Such that no
            text is configured for are recognised where they come within seconds of the customer's
            first message, or the same words go to several customers.
        history_limit: Messages of the history that the agent is given at most, from a customer's
            on; the oldest are left out. An agent with a memory of its own gets what
            ``ConvSyncMiddleware(history_limit=…)`` says.
        account_concurrency: Turns of one account that may run at the same time, in all processes
            together; None for any number.
        on_newer_message: What becomes of a reply if another message came while the agent was
            running: ``answer`` sends it, and the next turn answers the message; ``rerun`` drops it
            and runs the agent on all of them, for at most ``agent_timeout`` seconds after the first
            message. Of an answer of several messages, it drops those that are not sent yet.
        on_unverifiable: What becomes of a message that got no answer from the API server, when the
            history does not reach back far enough any more to tell whether it was recorded:
            ``dead_letter`` keeps it for an operator, ``resend`` may double it, ``skip`` may lose
            it.
        lease: Seconds after which another process takes over from one that died.
        workers: How many conversations a block answers at once besides its calls; and as many
            threads, or tasks, write to the API server, and send replies. On an event loop, up to
            eight writes and replies more for each of them begin at once, right after their commit.
        record_only: The block records events and leaves them to other processes on the same store:
            it has no workers, ``run`` and ``arun`` refuse, and it needs no ``agent``.
        shutdown_timeout: Seconds that a call, or leaving the block, may spend on finishing; what is
            left then stays in the store.
        log_errors: Whether the log has the texts and tracebacks of what the agent, and functions
            that are passed here, raise. They may quote customers, so by default it has the class
            and the place in your code only.

    Raises:
        ConfigurationError: A value is not of its argument's kind or range; the agent takes no
            ``context``; client or store are configured nowhere, nor a WAHA for ``media`` or
            ``transcribe``; or two of them exclude each other, such as ``on_reply`` and ``reply``.
    """

    def __init__(
        self,
        agent: Annotated[agents.Agent | None, ELSEWHERE] = None,
        *,
        client: clients.ConvSyncClient | clients.AsyncConvSyncClient | None = None,
        store: stores.StoreLike | None = None,
        extractor: state.Extractor | None = None,
        prepare: resuming.Prepare | None = None,
        media: media.MediaMode = "text",
        transcribe: media.Transcribe | None = None,
        context: agents.ContextOf | None = None,
        resume: Annotated[
            resuming.Resume | None, Advice("to answer once: resume_interrupt(customer, value)")
        ] = None,
        interrupt_timeout: Patience | None = 30.0,
        silent_marker: str | None = None,
        budget: process.Budget | None = None,
        on_handoff: process.OnHandoff | None = None,
        handoff_pause: PositiveSeconds = 24 * 3600.0,
        fallback_reply: str | None = None,
        on_reply: engine.OnReply | None = None,
        reply: outbox.WAHAReply | None = None,
        on_undelivered: outbox.OnUndelivered | None = None,
        reply_timeout: Seconds = 900.0,
        debounce: Seconds = 0.0,
        max_debounce: Seconds = 5.0,
        agent_timeout: PositiveSeconds = 120.0,
        max_errors: Count = 3,
        max_starts: Count = 5,
        conversation_timeout: Seconds = 900.0,
        max_queued: Count = 1000,
        max_age: PositiveSeconds | None = 24 * 3600.0,
        max_turns_per_minute: Count | None = 20,
        automatic_texts: Iterable[str] = (),
        history_limit: Count = 100,
        account_concurrency: Count | None = None,
        on_newer_message: process.OnNewerMessage = "answer",
        on_unverifiable: outbox.OnUnverifiable = "dead_letter",
        lease: PositiveSeconds = 30.0,
        workers: CountOrZero = 4,
        record_only: bool = False,
        shutdown_timeout: Seconds = 10.0,
        log_errors: bool = False,
    ) -> None:
        from langchain_convsync.client import api_of
        from langchain_convsync.outbox import Outbox, Replies
        from langchain_convsync.stores import AcceptRules, open_store
        from langchain_convsync.turns.deliveries import Deliveries
        from langchain_convsync.turns.engine import Engine
        from langchain_convsync.turns.inbox import Inbox, has_newer
        from langchain_convsync.turns.lids import Lids
        from langchain_convsync.turns.media import Media
        from langchain_convsync.turns.naming import Naming
        from langchain_convsync.turns.process import Limits, Processor

        if agent is None and not record_only:
            message = (
                "agent= is None: pass a Runnable; or record_only=True, to leave the answers to "
                "other processes"
            )
            raise ConfigurationError(message)
        if workers == 0 and not record_only:
            message = (
                "workers must be from 1: 0 would answer nothing; for a process that records and "
                "leaves the answers to others pass record_only=True"
            )
            raise ConfigurationError(message)
        if on_reply is not None and reply is not None:
            message = "reply= sends the replies, and on_reply= would send them again: pass one"
            raise ConfigurationError(message)
        if media == "blocks" and prepare is not None:
            message = (
                'media="blocks" puts files into the agent\'s input, and prepare= replaces that: '
                "leave one of them out"
            )
            raise ConfigurationError(message)
        self._api = api_of(client)
        self._waha = None if reply is None else reply.waha
        if record_only:
            media, transcribe = "text", None
        self._media = Media(media, transcribe, self._waha, log_errors=log_errors)
        self._owns_api = client is None
        self._owns_store = store is None or isinstance(store, str | os.PathLike)
        self.store: stores.EventStore = (
            open_store(store) if store is None or isinstance(store, str | os.PathLike) else store
        )
        self._inbox = Inbox(
            self.store,
            AcceptRules(
                lease=lease,
                debounce=debounce,
                max_debounce=max_debounce,
                max_queued=max_queued,
                account_concurrency=account_concurrency or 0,
            ),
            naming := Naming(self.store),
            automatic_texts=automatic_texts,
            keeps_groups=self._api.profile.groups,
            max_age=math.inf if max_age is None else max_age,
        )
        outbox = Outbox(self._api, self.store, lease=lease, on_unverifiable=on_unverifiable)
        replies = (
            None
            if reply is None
            else Replies(reply, self.store, lease=lease, timeout=reply_timeout, is_newer=has_newer)
        )
        self._deliveries = Deliveries(
            self.store, outbox, replies, lease=lease, budget=shutdown_timeout
        )
        self._only_awaited: dict[str, Callable[[], bool]] = {
            "on_reply=": partial(is_async, on_reply),
            "on_undelivered=": partial(is_async, on_undelivered),
            "extractor=": partial(is_async, extractor),
            "resume=": partial(is_async, resume),
            "budget=": partial(is_async, budget),
            "on_handoff=": partial(is_async, on_handoff),
            "transcribe=": partial(is_async, transcribe),
            "client=": lambda: self._api.only_awaits,
            "reply=": lambda: self._waha is not None and self._waha.only_awaits,
        }
        limits = Limits(
            fallback_reply=fallback_reply,
            agent_timeout=agent_timeout,
            max_errors=max_errors,
            max_starts=max_starts,
            conversation_timeout=conversation_timeout,
            lease=lease,
            on_newer_message=on_newer_message,
            handoff_pause=handoff_pause,
            max_age=max_age,
            max_turns=max_turns_per_minute,
        )
        processor = Processor(
            _answers_nothing if agent is None else agent,
            self._api,
            self.store,
            breaker=outbox.breaker,
            extractor=extractor,
            prepare=prepare,
            history_limit=history_limit,
            context=context,
            resume=resume,
            interrupt_timeout=interrupt_timeout,
            budget=budget,
            on_handoff=on_handoff,
            limits=limits,
            lids=Lids(naming, self._waha),
            media=self._media,
            replies=replies,
            log_errors=log_errors,
            silent_marker=silent_marker,
        )
        self._engine = Engine(
            self._api,
            self.store,
            inbox=self._inbox,
            processor=processor,
            deliveries=self._deliveries,
            on_reply=on_reply,
            sends=not record_only and (reply is not None or on_reply is not None),
            workers=workers,
            log_errors=log_errors,
            record_only=record_only,
            on_undelivered=on_undelivered,
        )
        if replies is not None:
            replies.tell_undelivered = self._engine.tell_undelivered
        _forks.in_child(self, TurnRunner._begin_anew)

    def _begin_anew(self) -> None:
        """In a forked child: a block's workers are the parent's, so calls finish by themselves."""
        self._engine.pool = None

    @property
    def sends_replies(self) -> bool:
        """Whether this runner sends the replies, so that workers may answer events too."""
        return self._engine.sends

    @property
    def is_record_only(self) -> bool:
        """Whether what this runner records is answered by other processes."""
        return self._engine.record_only

    @property
    def is_at_work(self) -> bool:
        """Whether the runner is inside its block, so that its workers answer what is accepted."""
        return self._engine.pool is not None and not self._engine.closed

    @property
    def shortage(self) -> str:
        """What the store lacked a moment ago when a block was to write into it: space, say.

        With what to do about it, in words; empty where nothing was lacking.
        """
        return "" if self._engine.pool is None else self._engine.pool.shortage

    @property
    def profile(self) -> settings.ServerProfile:
        """What the API server is like."""
        return self._api.profile

    @property
    def max_age(self) -> float:
        """Seconds after which a message is not answered any more; ``math.inf`` for any age."""
        return self._inbox.max_age

    @property
    def transports(self) -> tuple[settings.Transport, ...]:
        """What awaited calls to the API server and to WAHA travel over, lent clients left out."""
        used = (self._api.transport, self._waha.transport if self._waha else None)
        return tuple(each for each in used if each is not None)

    def run(self, event: models.InboundEvent, wait: Seconds | None = None) -> turns.Turn:
        """Answer an event, or tell what became of it.

        Args:
            event: The event; give every delivery of one message the same ``event_id``.
            wait: Seconds to wait while another call or process works on the conversation, and for
                the debounce window; None waits until the event is done.

        Returns:
            The turn. Send ``turn.reply`` where ``turn.status`` is ``answered``, ``interrupted`` or
            ``failed``, and only there: one call per turn gets that status.

        Raises:
            InvalidEventError: The event names no customer, or a group of a server without any.
            StoreError: The store did not accept the event; deliver it again.
            ClosedError: The runner is closed.
            ConfigurationError: It only records.
        """
        self._require(awaited=False)
        return run(self._engine.run(event, wait))

    async def arun(self, event: models.InboundEvent, wait: Seconds | None = None) -> turns.Turn:
        """:meth:`run` on the running event loop."""
        self._require(awaited=True)
        return await arun(self._engine.run(event, wait))

    def accept(self, event: models.InboundEvent) -> turns.Turn:
        """Record an event, for the workers to answer; a webhook has to be answered at once.

        Returns:
            ``queued``; or ``duplicate``, with what was said; or ``busy``, and nothing is recorded.

        Raises:
            InvalidEventError: The event names no customer.
            StoreError: The store did not accept the event; have it delivered again.
            ClosedError: The runner is closed.
        """
        return run(self._engine.accept(event))

    async def aaccept(self, event: models.InboundEvent) -> turns.Turn:
        """:meth:`accept` on the running event loop."""
        return await arun(self._engine.accept(event))

    def say(
        self,
        customer: str,
        what: str | bot.Reply,
        *,
        at: datetime | None = None,
        unless_heard: bool = False,
        colleague: bool = False,
        key: str | None = None,
        account: str = "default",
    ) -> turns.Turn:
        """Write to a customer first: a message of the bot's own, once, in its place.

        It is recorded in the store like a customer's message, and sent like a reply, in order with
        both; in the history it is the bot's. Nothing is said while a human has the conversation, or
        after it was closed. Where the API server knows no conversation (any more), it is sent and
        not recorded.

        Args:
            customer: The customer's phone number, chat id, BSUID or other id; or a group's chat id.
            what: The text, or a ``Reply``.
            at: When to say it, in a time zone; workers do, of this process or another. Past times
                and None are now.
            unless_heard: Say nothing if the customer writes first.
            colleague: They are the words of a human, from a helpdesk say: said also while a human
                has the conversation.
            key: Names the message: with the same key, a customer gets it once, as long as the store
                remembers (its ``retention``, a week by default). None is a new message; in a turn,
                in a tool say, the same words are one, so that it may run again.
            account: The receiving side, as for :meth:`pause`.

        Returns:
            ``said``, to be treated like a turn of :meth:`run`; ``queued`` where it waits for its
            time, or for a turn that runs; ``duplicate`` where the key is known; ``dropped`` or
            ``paused``, and nothing is said; ``busy``, and nothing is recorded.

        Raises:
            ConfigurationError: ``what`` says nothing, ``at`` names no time zone, or the customer
                has written to several accounts.
            InvalidPhoneNumberError: ``customer`` is not a customer id.
            StoreError: The store did not accept it.
        """
        wanted = saying.Wanted.of(
            what, at=at, unless_heard=unless_heard, colleague=colleague, key=key
        )
        if not self._engine.record_only:
            self._require(awaited=False)
        return run(self._engine.say(customer, account, wanted))

    async def asay(
        self,
        customer: str,
        what: str | bot.Reply,
        *,
        at: datetime | None = None,
        unless_heard: bool = False,
        colleague: bool = False,
        key: str | None = None,
        account: str = "default",
    ) -> turns.Turn:
        """:meth:`say` on the running event loop."""
        wanted = saying.Wanted.of(
            what, at=at, unless_heard=unless_heard, colleague=colleague, key=key
        )
        if not self._engine.record_only:
            self._require(awaited=True)
        return await arun(self._engine.say(customer, account, wanted))

    def pause(self, customer: str, *, seconds: Seconds, account: str = "default") -> None:
        """Give a conversation to a human: what the customer writes is recorded, not answered.

        The agent answers again after ``seconds``, or after :meth:`resume`; what was written
        meanwhile it finds in the history. A reply that it is working on is dropped.

        Args:
            customer: The customer's phone number, chat id, BSUID or other id.
            seconds: For how long, from now; the latest call wins.
            account: The receiving side: any of what its source tells (subdomain, bot id, number,
                WAHA session or configured name); ``"default"`` is whichever the customer wrote to.

        Raises:
            ConfigurationError: The customer has written to several.
            InvalidPhoneNumberError: ``customer`` is not a customer id.
        """
        run(self._engine.pause(customer, account, seconds))

    async def apause(self, customer: str, *, seconds: Seconds, account: str = "default") -> None:
        """:meth:`pause` on the running event loop."""
        await arun(self._engine.pause(customer, account, seconds))

    def resume(self, customer: str, *, account: str = "default") -> None:
        """Let the agent answer a conversation again, from the customer's next message on."""
        run(self._engine.pause(customer, account, 0.0))

    async def aresume(self, customer: str, *, account: str = "default") -> None:
        """:meth:`resume` on the running event loop."""
        await arun(self._engine.pause(customer, account, 0.0))

    def link(self, customer: str, alias: str, *, account: str = "default") -> bool:
        """Two ids name one customer: their conversations are one from now on.

        For what no message tells: Meta's ``user_changed_user_id`` (the old BSUID and the new one),
        or a number that the customer's account at the shop has. Ids that one event tells
        (``phone_number``, ``lid``, ``aliases``) are linked by themselves.

        What waits under either id is answered in order of arrival; a takeover goes along.

        Args:
            customer: An id of the customer: a phone number, chat id, BSUID or another id.
            alias: Another id of theirs.
            account: The receiving side, as for :meth:`pause`.

        Returns:
            Whether they are one conversation now: not while a turn runs, or something is still to
            be delivered, under both; call again later. Nor where they are of two tenants.

        Raises:
            ConfigurationError: The customer has written to several accounts.
            InvalidPhoneNumberError: ``customer`` or ``alias`` is not a customer id.
        """
        return run(self._engine.link(customer, alias, account))

    async def alink(self, customer: str, alias: str, *, account: str = "default") -> bool:
        """:meth:`link` on the running event loop."""
        return await arun(self._engine.link(customer, alias, account))

    def resume_interrupt(
        self, customer: str, value: object, *, account: str = "default"
    ) -> turns.Turn:
        """Answer what the agent waits for in a conversation, and let it go on.

        The answer is recorded first: it survives a crash, and the first one counts. What the
        customer wrote meanwhile is answered by the next turns.

        Args:
            customer: The customer's phone number, chat id, BSUID or other id.
            value: What ``interrupt()`` returns in the agent, JSON: for LangChain's
                ``HumanInTheLoopMiddleware`` ``{"decisions": [{"type": "approve"}]}``, a decision
                for each of its requests. Where several interrupts wait, a mapping by their ids, or
                one value for all. LangGraph's ``Command(resume=…)`` stands for its value.
            account: The receiving side, as for :meth:`pause`.

        Returns:
            The turn that went on, to be treated like one of :meth:`run`; ``duplicate`` where a
            worker was faster.

        Raises:
            NoInterruptError: The agent waits for nothing there, or it has another answer already.
            ConfigurationError: The customer has written to several accounts, or the value is not
                JSON.
            InvalidPhoneNumberError: ``customer`` is not a customer id.
        """
        self._require(awaited=False)
        return run(self._engine.resume_interrupt(customer, value, account))

    async def aresume_interrupt(
        self, customer: str, value: object, *, account: str = "default"
    ) -> turns.Turn:
        """:meth:`resume_interrupt` on the running event loop."""
        self._require(awaited=True)
        return await arun(self._engine.resume_interrupt(customer, value, account))

    def take_over(self, message: waha.OperatorMessage, *, seconds: Seconds) -> bool:
        """A human wrote to a customer from the business's own phone: the conversation is theirs.

        The words enter the history, and the agent is paused for so many seconds from now. WAHA now
        and then reports what ``WAHAReply`` sent as a human's: that is recognised by its id, or by
        its words while its id is not known, and only noted as an echo. What the WhatsApp Business
        app sends by itself is recorded, and pauses nothing: see ``automatic_texts=``.

        Returns:
            Whether it was a human, who is there now.

        Raises:
            InvalidEventError: The message names no customer.
            StoreError: The store did not accept it; have it delivered again.
        """
        return run(self._engine.take_over(message, seconds))

    async def atake_over(self, message: waha.OperatorMessage, *, seconds: Seconds) -> bool:
        """:meth:`take_over` on the running event loop."""
        return await arun(self._engine.take_over(message, seconds))

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
            StoreError: The store did not accept it; have it delivered again.
        """
        return run(self._engine.amend(change))

    async def aamend(self, change: waha.Ignored) -> bool:
        """:meth:`amend` on the running event loop."""
        return await arun(self._engine.amend(change))

    def record_echo(
        self, echo: waha.Ignored | waha.OperatorMessage, *, seconds: Seconds = 0.0
    ) -> bool:
        """Take one of our own messages, as WAHA's webhook reports it, as proof that it was sent.

        So a reply whose sending got no clear answer need not be looked for in the chat. Needs the
        webhook event ``message.any``; give every own message that ``waha.parse_event`` finds.

        A runner with ``reply=WAHAReply(…)`` knows its own sends. What another program has sent
        through WAHA, in a conversation that the store knows, enters the history as the bot's words.

        Args:
            echo: The message.
            seconds: For how long another program's message pauses its conversation.

        Returns:
            Whether a reply in this conversation was waiting for a sign.

        Raises:
            StoreError: The store did not accept it; have it delivered again.
        """
        return run(self._engine.record_echo(echo, self._others(seconds)))

    async def arecord_echo(
        self, echo: waha.Ignored | waha.OperatorMessage, *, seconds: Seconds = 0.0
    ) -> bool:
        """:meth:`record_echo` on the running event loop."""
        return await arun(self._engine.record_echo(echo, self._others(seconds)))

    def record_ack(self, told: waha.Ignored) -> str | None:
        """Take what WAHA's ``message.ack`` tells of a reply: how far it got.

        ``show`` and metrics tell it, and ``on_undelivered=`` is called where it failed.

        Args:
            told: ``waha.Ignored`` with the reason ``ack``; others are nothing.

        Returns:
            ``"failed"``, ``"sent"``, ``"delivered"`` or ``"read"``, where that is news of a reply
            that ``WAHAReply`` has sent; else None.

        Raises:
            StoreError: The store did not accept it; have it delivered again.
        """
        return run(self._engine.record_ack(told))

    async def arecord_ack(self, told: waha.Ignored) -> str | None:
        """:meth:`record_ack` on the running event loop."""
        return await arun(self._engine.record_ack(told))

    def record_status(self, told: waha.Ignored) -> bool:
        """Take what WAHA's ``session.status`` tells of an account: whether it may send now.

        While its session is not ``WORKING``, or WhatsApp locks it, its replies wait, in all
        processes together; while its new chats are capped, its first contacts do. That is found out
        by sending, too; so it is known before.

        Args:
            told: ``waha.Ignored`` with the reason ``session status``; others are nothing.

        Returns:
            Whether it may not.

        Raises:
            StoreError: The store did not accept it; have it delivered again.
        """
        return run(self._engine.record_status(told))

    async def arecord_status(self, told: waha.Ignored) -> bool:
        """:meth:`record_status` on the running event loop."""
        return await arun(self._engine.record_status(told))

    def _others(self, seconds: float) -> float | None:
        """Pause for another program's message; None where it cannot be told from a reply."""
        return None if self._waha is None else seconds

    def watch(self) -> object:
        """What this process does from now on, for a notebook: show it, and see a timeline.

        Every turn with the time that it took: what was read, what models saw and answered, which
        tools they called, the commit, each write. What is shown is how things are then, words
        included: it is HTML without a script. Spans go there, and to OpenTelemetry no more.

        Returns:
            An object that a notebook shows; ``print`` tells the same in short.
        """
        return import_module("langchain_convsync.workbench.notebook").Watched()  # above this layer

    def metrics(self) -> str:
        """All metrics of this process, and what its store has to do now, as Prometheus reads them.

        For a route of your own, with the content type ``telemetry.CONTENT_TYPE``.
        """
        return run(self._engine.metrics())

    async def ametrics(self) -> str:
        """:meth:`metrics` on the running event loop."""
        return await arun(self._engine.metrics())

    def close(self) -> None:
        """Close what this runner opened itself."""
        self._engine.closed = True
        self._engine.lookout.end()
        self._media.close()
        if self._owns_api:
            self._api.close()
        if self._owns_store:
            self.store.close()

    async def aclose(self) -> None:
        """Close what this runner opened itself, sync and async."""
        self._engine.closed = True
        self._engine.lookout.end()
        await self._media.aclose()
        if self._owns_api:
            await self._api.aclose()
        if self._owns_store:
            await self.store.aclose()

    def _require(self, *, awaited: bool) -> None:
        """Tell before the first event what would fail at each of them."""
        if not awaited:
            parts.require_no_awaited([name for name, of in self._only_awaited.items() if of()])
        self._engine.processor.require(awaited=awaited)

    def _has_a_process_of_its_own(self) -> None:
        """No plain function of the user's holds up the event loop."""
        self._engine.run_plain_functions_on_threads()

    def _new_pool(self) -> worker.WorkerPool:
        """The workers of a block; what an earlier one closed is opened anew."""
        pool = self._engine.new_pool()
        self._media.reopen()
        if self._owns_api:
            self._api.reopen()
        if self._owns_store:
            self.store.reopen()
        return pool

    def __enter__(self) -> Self:
        self._require(awaited=False)
        pool = self._new_pool()
        try:
            run(self._engine.require_served())
        except BaseException:
            self.close()
            raise
        pool.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._engine.pool is not None:
                self._engine.pool.stop(self._deliveries.budget)
            run(self._engine.finish())
        finally:
            self.close()

    async def __aenter__(self) -> Self:
        self._require(awaited=True)
        pool = self._new_pool()
        try:
            await arun(self._engine.require_served())
        except BaseException:
            await self.aclose()
            raise
        await pool.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._engine.pool is not None:
                await self._engine.pool.astop(self._deliveries.budget)
            await arun(self._engine.finish())
        finally:
            await self.aclose()

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """The block as an ASGI lifespan: ``FastAPI(lifespan=runner.lifespan)``."""
        from langchain_convsync._machine import accepting

        with accepting(running_loop()):
            async with self:
                yield


def _answers_nothing(_tenant: object) -> NoReturn:
    raise AssertionError  # pragma: no cover - what only records runs no agent
