"""The contract that both event stores fulfil."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from langchain_convsync._flow import Io
from langchain_convsync.stores.base.keys import AccountKey, Keys
from langchain_convsync.stores.base.records import (
    DEFAULT_RULES,
    Accepted,
    AcceptRules,
    Acquired,
    Adopt,
    Backlog,
    Commit,
    Committed,
    Confirmed,
    ConversationView,
    Cursor,
    DeadLetter,
    DeadLetterPage,
    Done,
    Hint,
    KeptCall,
    Lease,
    Load,
    NewEvent,
    QueueName,
    Restriction,
    Upcoming,
)


class Listener(Protocol):
    """Hears that other processes leave work, or end a turn, for one thread that waits for it.

    A hint may be lost or late, and come for nothing: :meth:`EventStore.upcoming` tells how it is.
    """

    @property
    def is_sure(self) -> bool:
        """Whether hints arrive, as far as it is known: else looks have to do."""
        ...

    def wait(self, seconds: float) -> Io[Sequence[Hint] | None]:
        """Let seconds pass, or less if there are hints; to be performed blocking."""
        ...

    def end(self) -> None:
        """Nobody waits any longer, now or later; may be called from any thread."""
        ...

    def close(self) -> None:
        """Let go of what it holds: by the thread that waited, when it waits no more."""
        ...


class EventStore(Protocol):
    """The operations; each is one :class:`Io` step, to be run or awaited."""

    @property
    def retention(self) -> float:
        """Seconds that finished events are remembered: what is older may be new, or known."""
        ...

    def keys(self) -> Io[Keys]:
        """The store's names for events and conversations; creates the store's secret once.

        The same object again, for as long as this is the store that was opened. Where it turns out
        to have been emptied or replaced, an operation raises StoreChangedError, and the next call
        answers the names of what is there now.
        """
        ...

    def account(self, account_key: AccountKey, facts: str) -> Io[AccountKey]:
        """The receiving side that an account key stands for, from now on the same one.

        It is an account that is known to be the same side (they tell the same bot, subdomain or
        number, and contradict each other in nothing), if there is exactly one, which then knows
        what both tell; else ``account_key`` is an account of its own.

        Args:
            account_key: As :meth:`Keys.account` makes it of the facts.
            facts: What a source tells of the receiving side, see :meth:`Keys.facts`.
        """
        ...

    def accounts(self) -> Io[dict[AccountKey, str]]:
        """Every account that :meth:`account` was asked for, and what is known of it."""
        ...

    def serve(self, server: str = "", *, adopt: Adopt = "first") -> Io[tuple[str, ...]]:
        """The API servers whose conversations this store holds, in alphabetical order.

        Args:
            server: One that is served from now on, see :meth:`Keys.server`; empty only looks.
            adopt: ``first`` adds it where none is known yet, ``also`` to those that are, ``only``
                forgets the others.
        """
        ...

    def accept(
        self, event: NewEvent, rules: AcceptRules = DEFAULT_RULES, *, token: str | None = None
    ) -> Io[Accepted]:
        """Record an event once, and acquire its conversation's inbox in the same step if possible.

        Its conversation is the one that all its names lead to, see :meth:`alias`. A new event is
        appended to the inbox; the conversation becomes due at ``min(first + max_debounce, last +
        debounce)``, first and last being the arrival of the oldest and the newest queued event, and
        the two windows those of the newest. A dead letter that is offered again is a duplicate.
        ``event.pause`` is that of a :meth:`pause`, also where there is no room for the event; one
        that is known pauses nothing.

        An event is known, too, where exactly one event of the same ``source`` agrees with its
        ``facts`` or, without any, lies in its conversation: another delivery told it under another
        account or customer. From then on that event knows what both tell, and the conversations
        are linked as by :meth:`alias`, where they are of one account. A Redis Cluster looks only
        for events of accounts with the same name, see :meth:`Keys.account`.

        Args:
            event: The event.
            rules: Its limits and windows.
            token: New for every acquire that is attempted; None only records. The same token again
                answers the same lease. Without one, another call is another delivery.

        Raises:
            StoreChangedError: ``event.names`` are those of another store.
            ValueError: The event's keys are malformed, or belong to different accounts.
        """
        ...

    def find(self, account_key: AccountKey, source: str, facts: str) -> Io[str | None]:
        """The event key of an account's one event of a source that agrees with these facts.

        Args:
            account_key: The account.
            source: The message, see :meth:`Keys.source`.
            facts: What is told about it, see :meth:`Keys.facts`.
        """
        ...

    def amend(
        self, event_key: str, before: str, after: str, *, due: bool = False
    ) -> Io[str | None]:
        """Replace the payload of an event that no turn has answered yet, if it is ``before``.

        Answers the payload that it has then, so the same call again answers the same, and one with
        another ``before`` reads it; None unless the event is queued. A turn that acquired it
        earlier goes on with what it read.

        Args:
            event_key: The event.
            before: The payload that it must have.
            after: The payload that it gets.
            due: Whether its inbox is held no longer, where the payload was replaced: not by the
                ``held`` of a turn that runs, either.

        Raises:
            ValueError: ``event_key`` is malformed.
        """
        ...

    def acquire(
        self,
        queue: QueueName,
        token: str,
        *,
        conversation_key: str | None = None,
        lease: float = 30.0,
        account_concurrency: int = 0,
    ) -> Io[Acquired | None]:
        """Lease a queue that has work due and no live lease; None without such a queue.

        With ``conversation_key``, that conversation's queue. Without, any but those of claims:
        accounts take turns (the next one is that whose oldest work, or whose last turn, is longest
        ago), within an account the longest due comes first. A lapsed lease is replaced by one of
        the next epoch. Acquiring an inbox counts a start on its head event, once per token. A token
        that holds a queue is answered with that queue again. ``account_concurrency`` leaves out the
        inboxes of accounts of which so many are leased already.
        """
        ...

    def renew(self, lease: Lease, *, seconds: float = 30.0) -> Io[Lease | None]:
        """Renew a lease to at least ``seconds`` from now; None when it is lost."""
        ...

    def commit_turn(self, lease: Lease, commit: Commit) -> Io[Committed]:
        """End a turn and give the inbox back: all of ``commit``, or nothing.

        The same call again answers ``done`` again. ``already``: another lease committed this turn's
        head event. ``fenced``: the lease is lost, or the events are not the head of the inbox.
        ``paused`` and ``newer``: the condition of ``commit`` is not met; the lease holds.
        Finished events lose their payload at once, the words of their outcome when the store keeps
        them no longer, and expire after its retention; a snapshot goes when it is not valid any
        more. On Redis by themselves, in SQLite with the next operation, a worker's idle poll too.

        Raises:
            ValueError: ``commit`` contradicts itself: no events, outcomes of others, or operations
                whose ids are not the turn's own.
        """
        ...

    def begin_call(
        self, lease: Lease, event_keys: Sequence[str], call: str, *, token: str
    ) -> Io[KeptCall | None]:
        """Note that the turn's agent calls a tool now, unless that is noted already.

        Answers what is kept of the call: begun by ``token`` where it is this very call, else what
        an earlier one left; None when fenced. It is kept with the turn's head event, for as long as
        that is not done: a commit erases it, but for a dead letter. :meth:`requeue` takes the
        results along, :meth:`discard` and :meth:`forget` erase them.

        Args:
            lease: Of the inbox, held by the turn.
            event_keys: The turn's events, the head first; any of them may have kept the call.
            call: Names the call within the turn.
            token: New for every run of the agent; the same one again answers the same.

        Raises:
            ValueError: The keys are malformed, or there is none.
        """
        ...

    def end_call(
        self, lease: Lease, event_key: str, call: str, *, token: str, result: str | None
    ) -> Io[bool]:
        """Keep what a tool's call came to; None takes back that it began. False when fenced.

        Args:
            lease: Of the inbox, held by the turn.
            event_key: The turn's head event.
            call: The call, as it was begun.
            token: As it was begun with.
            result: Text.

        Raises:
            ValueError: The key is malformed.
        """
        ...

    def begin(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        attempt: int,
        need: float,
        note: str | None = None,
        done: Confirmed | None = None,
    ) -> Io[Cursor | None]:
        """Note that part ``pos`` of the head operation goes on the wire now; None when fenced.

        ``done`` is noted first, as by :meth:`confirm`, in the same step. Fenced also means that
        ``operation_id`` is not at the head, or past ``pos``, or that its account sends nothing now:
        see :meth:`restrict`. Renews the lease when less than
        ``need`` seconds are left. ``attempt`` is the number of this try, from 1; it becomes the
        cursor's ``tries``, and the first call for an attempt sets ``sent_at``. A ``note`` of None
        keeps the part's note.
        """
        ...

    def confirm(
        self, lease: Lease, operation_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Io[Done]:
        """Note that part ``pos`` is confirmed; ``last`` removes the operation from the queue.

        ``anchor`` replaces the queue's anchor; None keeps it. ``already`` when ``operation_id`` is
        not at the head any more, or its cursor is past ``pos``, unless it was this very call that
        moved it.
        """
        ...

    def retry(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Io[Done]:
        """Note that part ``pos`` is to be tried again, and not before ``delay`` seconds from now.

        ``sent`` False takes back ``sent_at``: the part surely was not applied. A ``note`` of None
        keeps the part's note. ``already`` as for :meth:`confirm`.
        """
        ...

    def set_dead(self, lease: Lease, operation_id: str, *, reason: str) -> Io[Done]:
        """Make the head operation a dead letter, and the rest of its turn with it.

        Later turns proceed. ``reason`` is kept with them. ``already`` when ``operation_id`` is not
        at the head any more, unless it was this very call that moved it.
        """
        ...

    def release(
        self,
        lease: Lease,
        *,
        delay: float = 0.0,
        failed: bool = False,
        held: int | None = None,
        done: Confirmed | None = None,
        why: str | None = None,
    ) -> Io[bool]:
        """Give a queue back; False when the lease was lost already.

        ``done`` is noted first, as by :meth:`confirm`, in the same step. ``held`` holds an inbox:
        its first so many events are due after ``delay`` only, or by what :meth:`amend` makes of
        one; those that stand or arrive behind them are due, all together, as if they were alone.
        An acquire ends that.

        On the inbox it takes back the start counted by the acquire; ``failed`` counts an error on
        the head event instead. The queue is due again after ``delay`` seconds, or after the delay
        that :meth:`retry` set if that is later, if it has work. Changes nothing after the queue
        was given back by :meth:`commit_turn` or an earlier release.

        ``why`` tells an operator why the work still waits: one short line (see
        :data:`LONGEST_WHY`; more is cut off) without a word or a number of the customer's. It is
        kept until something is done: a commit, a confirmed part, a dead letter, or a release that
        tells another reason or none. The same reason again is one since it was told first.
        """
        ...

    def record_echo(self, conversation_key: str, note: str) -> Io[bool]:
        """Keep what shows that a reply was sent, while the reply at the head may be on the wire.

        Its queue is due at once then. False, and nothing is kept, while no reply is waited for. An
        alias stands for the conversation it leads to.

        Args:
            conversation_key: The conversation.
            note: One line of text; the same one again changes nothing.

        Raises:
            ValueError: The note has several lines.
        """
        ...

    def record_ack(self, conversation_key: str, message_id: str, level: int) -> Io[None]:
        """Keep how far one of our own messages got: the farthest, of the last few messages.

        An error counts as long as it has not arrived. Nothing is kept for a conversation that is
        not known; an alias stands for the conversation it leads to.

        Args:
            conversation_key: The conversation.
            message_id: The message's stanza id.
            level: See :class:`Ack`.

        Raises:
            ValueError: The id is empty, or holds a space.
        """
        ...

    def restrict(self, account_key: AccountKey, *, kind: str, seconds: float, why: str) -> Io[None]:
        """Let an account send no replies for so many seconds from now.

        None of its reply queues is acquired until then. After that one is, which shows whether the
        restriction is over: the others wait for it, as long as its lease lasts, until it is given
        back, or until :meth:`lift`. What is restricted for longer by another kind stays so.

        The kind :data:`FIRST_CONTACTS` holds reply queues alone that have sent nothing yet, so it
        gives way to any other kind, and ends none before its time.

        Args:
            account_key: The account.
            kind: What restricts it: one word.
            seconds: For how long; the latest call of a kind wins.
            why: For an operator: one short line, without a word or a number of anyone's.

        Raises:
            ValueError: ``kind`` is no word.
        """
        ...

    def lift(
        self, account_key: AccountKey, *, kind: str | None = None, token: str | None = None
    ) -> Io[None]:
        """End an account's restriction, if it has one.

        Args:
            account_key: The account.
            kind: Only one of this kind.
            token: Only one that is tried under this token, with which its queue was acquired.
        """
        ...

    def restrictions(self) -> Io[tuple[Restriction, ...]]:
        """The accounts that are restricted, or were and have sent nothing since for a day."""
        ...

    def pace(self, lease: Lease, token: str, *, spacing: Mapping[str, float]) -> Io[float | None]:
        """Seconds until a message may be sent; 0.0 where it may be now; None when fenced.

        Each of an account's messages has a time of its own, in the order in which it is asked for:
        as far from the one before as ``spacing`` says, in all processes together. Whoever comes for
        it too late, by as much as that, is given another one.

        Args:
            lease: Of a queue of the account.
            token: The message; the same one again waits for the same time.
            spacing: Seconds between two messages that are of one kind, by their kinds; a message
                may be of several.
        """
        ...

    def pause(self, conversation_key: str, *, seconds: float) -> Io[None]:
        """Give a conversation to a human for so many seconds from now; 0.0 gives it back.

        The latest call wins. It may be a conversation that has no event yet; an alias stands for
        the conversation it leads to, and one that is linked later brings its pause along.
        """
        ...

    def alias(
        self, name: str, conversation_key: str, *, lease: Lease | None = None
    ) -> Io[str | None]:
        """Let two conversation keys of one customer lead to one conversation; which one that is.

        It is the one that has operations to deliver or a turn that runs, else the one that had a
        turn before, else that of ``conversation_key``. Events that wait under the other name go
        along: in order of arrival, but behind what a turn has acquired or holds. So do a human's
        takeover and its tenant. None, and nothing is changed, while both have operations or a turn,
        or where they are of two tenants.

        Args:
            name: The other key.
            conversation_key: The conversation.
            lease: Of an inbox, held by a turn that found out whose name it is: it does not count as
                a turn that runs. Where its conversation is the one that goes along, it ends, as
                released.

        Raises:
            ValueError: The keys are malformed, or belong to different accounts.
        """
        ...

    def due(self, queue: QueueName, conversation_key: str) -> Io[float | None]:
        """Seconds until a queue can be acquired, 0.0 if it can be now; None when it has no work.

        It waits for a lease to end, for a retry's delay, and in the inbox for the debounce window.
        """
        ...

    def upcoming(self, conversation_keys: Sequence[str] = ()) -> Io[Upcoming]:
        """What can be acquired now, and when more can be; claims are none of it.

        Args:
            conversation_keys: Those whose inbox is waited for.
        """
        ...

    def listen(self) -> Listener:
        """Begin to hear of what other processes leave; this one's own may be told, too."""
        ...

    def backlog(self) -> Io[Backlog]:
        """What is left to do."""
        ...

    def loads(self) -> Io[tuple[Load, ...]]:
        """What each account has to do, the longest overdue first; claims belong to none."""
        ...

    def view(self, conversation_key: str, *, most: int = 100) -> Io[ConversationView]:
        """Look at a conversation without acquiring it; an alias stands for where it leads to.

        Args:
            conversation_key: The conversation.
            most: At most so many events, and operations of each queue, 1 to 1,000.
        """
        ...

    def dead_letters(
        self, conversation_key: str | None = None, *, most: int = 100
    ) -> Io[tuple[DeadLetter, ...]]:
        """What waits for an operator, oldest first: events, writes and replies.

        An alias stands for the conversation it leads to, and for what became a dead letter under it
        before it led there. Of more than ``most`` dead events of all conversations Redis tells of
        those that died first, SQLite of those that arrived first. For one conversation Redis looks
        through the dead events of its shard.

        Args:
            conversation_key: Of this conversation only; None for all of the store.
            most: At most so many, 1 to 1,000.
        """
        ...

    def dead_letter_page(
        self, page: str = "", *, account_key: AccountKey | None = None, most: int = 100
    ) -> Io[DeadLetterPage]:
        """All dead letters of the store, or of an account, one page after the other.

        A page costs what it tells, however many conversations and dead letters there are. What is
        decided meanwhile is told no more; what becomes a dead letter meanwhile may be told, and an
        operation may be told twice.

        Args:
            page: As the page before names it; empty for the first one.
            account_key: Of this account only.
            most: About so many, 1 to 1,000: Redis tells the operations of a conversation together.

        Raises:
            ValueError: ``page`` is no page of this store.
        """
        ...

    def requeue(self, letter: DeadLetter, *, token: str, body: str | None = None) -> Io[str | None]:
        """Give a dead letter back to the workers, under a new id, which is answered.

        An operation goes to the end of its queue, so it is delivered after what came later. An
        event is queued as a new one that arrives now, without starts and errors; the old one is
        done, with the outcome that it had, so the message that is offered again is a duplicate
        still. None when it is not a dead letter any more: of two callers one is answered.

        Args:
            letter: As it was listed.
            token: New for every call; the same one again answers the same.
            body: What to do, instead of the body that it had: what is confirmed of it (``pos``)
                must not be done again.
        """
        ...

    def discard(self, letter: DeadLetter, *, token: str) -> Io[bool]:
        """Give up a dead letter: an operation is gone, an event done.

        False when it is not a dead letter any more. The same ``token`` again answers the same.
        """
        ...

    def forget(self, conversation_key: str) -> Io[bool]:
        """Erase everything that this store keeps of a conversation, and of aliases that lead to it.

        False where nothing was kept of it, hence in a second call. That is its events (queued,
        dead and done), operations, dead letters, its snapshot, leases and pause. In one step
        everything that could still be worked on is gone, and a holder of a lease is fenced; on
        Redis the records of what is done, and what stands under its aliases, follow in small steps,
        which the same call again begins anew, and which need the permission to ``SCAN``. SQLite
        overwrites what it erases, in the file and in its log.

        It cannot erase what is elsewhere: Redis' append-only file and snapshots until Redis
        rewrites them (``BGREWRITEAOF``, ``BGSAVE``), replicas that are behind, backups; the API
        server's own copy, what WAHA and WhatsApp keep, logs and traces, an agent's checkpoints; nor
        a request that is on the wire. A message that is offered again is a new event, and a call of
        a runner that waits for its event offers it again.

        Raises:
            StoreUnavailableError: It is erased, but SQLite's log still holds it, since another
                process reads the file for long: the same call again overwrites that.
        """
        ...

    def close(self) -> None:
        """End this store's use, and close the connections it opened for blocking calls."""
        ...

    async def aclose(self) -> None:
        """End this store's use, and close every connection it opened."""
        ...

    def reopen(self) -> None:
        """Begin this store's use anew after its end; what memory held is gone."""
        ...


#: A store, or the URL or path of one, as :func:`langchain_convsync.stores.open_store` takes it.
StoreLike: TypeAlias = EventStore | str | os.PathLike[str]
