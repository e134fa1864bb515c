"""The workbench's world: customers, WhatsApp, an API server, a store, and your bot among them."""

from __future__ import annotations

import base64
import itertools
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import httpx

from langchain_convsync import waha
from langchain_convsync._flow import run
from langchain_convsync.contents import Media, content_of
from langchain_convsync.errors import ConvSyncError, StoreError
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import Write
from langchain_convsync.outbox.reply import PendingReply
from langchain_convsync.stores import DeadLetter, SQLiteEventStore
from langchain_convsync.testing import Delivery
from langchain_convsync.turns import operators
from langchain_convsync.turns.turn import QueuedMessage
from langchain_convsync.workbench import recording
from langchain_convsync.workbench.api import ApiServer
from langchain_convsync.workbench.counting import Ledger, Said, Tally, tally
from langchain_convsync.workbench.process import MORE, Bot, Place
from langchain_convsync.workbench.timeline import Fact, Timeline
from langchain_convsync.workbench.whatsapp import (
    CUSTOMERS,
    PICTURE,
    Customer,
    WhatsApp,
    stranger,
)

#: Seconds between WAHA's tries to deliver, and how many there are.
AGAIN, TRIES = 0.5, 240
#: Seconds for which the store can be kept from writing.
STORE_AWAY = 5.0
#: Seconds after which a late echo comes.
LATE = 4.0
#: Seconds after a customer's first message that a human needs to answer at least.
HUMAN = 12.0
#: Seconds within which a bot's process has told what it has done: one that was killed has not.
TOLD = 2.0
#: Seconds between looks at a conversation in which something waits.
LOOK = 0.5

State = dict[str, Any]


class World:
    """Everything but you.

    Args:
        target: ``MODULE:RUNNER``.
        subdomain: The tenant.
        bot_id: The bot.
        is_replay: Whether nobody watches: the bot neither types nor waits for further messages,
            unless they are announced.

    Attributes:
        timeline: What happened.
        customers: Who can write, by phone number.
    """

    def __init__(
        self,
        target: str,
        *,
        subdomain: str = "restaurant-abc",
        bot_id: str = "65a1b2c3d4e5f60718293a4b",
        is_replay: bool = False,
    ) -> None:
        self.timeline = Timeline()
        self.target = target
        self.customers = {customer.phone_number: customer for customer in CUSTOMERS}
        secret, self._folder = secrets.token_hex(16), TemporaryDirectory(prefix="convsync-")
        self._path = str(Path(self._folder.name) / "store.db")
        metadata = {"subdomain": subdomain, "bot.id": bot_id}
        self.api = ApiServer(self._of_api)
        self.whatsapp = WhatsApp(self._of_whatsapp, secret=secret, metadata=metadata)
        self.api.start()
        self.whatsapp.start()
        self.store = SQLiteEventStore(self._path)
        store = f"sqlite:///{self._path}"
        place = Place(self.api.base_url, self.whatsapp.base_url, store, secret, is_replay)
        self.bot = Bot(target, place, self._of_bot)
        self._count = itertools.count(1)
        self._ledgers = defaultdict[str, Ledger](Ledger)
        self._last: dict[str, str] = {}
        self._said: dict[str, dict[str, Any]] = {}
        self._since: dict[str, float] = {}
        self._sessions: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._ended = set[str]()
        self._on_way = defaultdict[str, int](int)
        self._late = False
        self._lock = threading.RLock()
        self._states: dict[str, State] = {}
        self._listeners: list[Callable[[State], None]] = []
        self._dirty, self._changed = set[str](), threading.Condition()
        self._looked = threading.Condition()
        self._over = threading.Event()
        self._web = httpx.Client(trust_env=False, timeout=10)
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def __enter__(self) -> Self:
        self.bot.start()
        self.bot.watch_files()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all of it; nothing stays."""
        self._over.set()
        with self._changed:
            self._changed.notify_all()
        with self._looked:
            self._looked.notify_all()
        self.bot.close()
        self._looking.join()
        self.whatsapp.away = False
        self.whatsapp.stop()
        self.api.stop()
        self.store.close()
        self._web.close()
        self._folder.cleanup()

    def ready(self, seconds: float) -> bool:
        """Wait until a bot is at work; False where it does not start."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.bot.wait(0.2):
                return True
            if any(f["kind"] == "worker" and f["state"] == "failed" for f in self.timeline.since()):
                return False
        return False

    # What a customer does

    def meet(self) -> Customer:
        """A further customer, who has not written yet."""
        customer = stranger(len(self.whatsapp.customers))
        self.whatsapp.meet(customer)
        with self._lock:
            self.customers = {**self.customers, customer.phone_number: customer}
        self.timeline.add("met", who=customer.phone_number, name=customer.name)
        return customer

    def part(self, customer: Customer) -> None:
        """Look after a customer no more."""
        with self._lock:
            self.customers = {
                number: each
                for number, each in self.customers.items()
                if number != customer.phone_number
            }

    def write(
        self,
        customer: Customer,
        text: str,
        *,
        times: int = 1,
        twin: bool = False,
        quotes: str | None = None,
        image: bool = False,
        more: bool = False,
    ) -> str:
        """The customer writes a message; delivered so many times, or once more under their LID.

        With ``more`` the bot is told to wait for the next one.

        Returns:
            The message's id.
        """
        stanza = f"3A{next(self._count):030X}"
        quoted = self._quoted(customer, quotes) if quotes else None
        said: dict[str, Any] = {"quotes": quoted, "image": image}
        deliveries = [self.whatsapp.written(customer, stanza, text, **said)] * times
        if twin:
            deliveries.append(self.whatsapp.written(customer, stanza, text, lid=True, **said))
        self._said[stanza] = said
        content = self._content(customer, stanza, text)
        shown = {"text": text, "id": stanza, "quotes": (quoted or {}).get("body")}
        if image:
            shown["image"] = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
        with self._lock:  # whoever counts finds it written and on its way
            self._ledgers[customer.phone_number].written[stanza] = [content]
            self._last[customer.phone_number] = stanza
            self._since.setdefault(customer.phone_number, time.time())
            self._tell("heard", customer, times=len(deliveries), **shown)
            for number, delivery in enumerate(deliveries):
                if more:
                    delivery["headers"][MORE] = "1"
                self._deliver(customer, delivery, message=stanza, again=number > 0)
        return stanza

    def edit(self, customer: Customer, text: str) -> None:
        """The customer changes the words of their last message."""
        stanza = self._last_of(customer)
        with self._lock:
            content = self._content(customer, stanza, text)
            self._ledgers[customer.phone_number].written[stanza].insert(0, content)
        delivery = self.whatsapp.edited(customer, stanza, text, next(self._count))
        self._tell("edited", customer, id=stanza, text=text)
        self._deliver(customer, delivery, message=stanza)

    def revoke(self, customer: Customer) -> None:
        """The customer takes their last message back."""
        stanza = self._last_of(customer)
        with self._lock:
            self._ledgers[customer.phone_number].revoked.add(stanza)
        delivery = self.whatsapp.revoked(customer, stanza, next(self._count))
        self._tell("revoked", customer, id=stanza)
        self._deliver(customer, delivery, message=stanza)

    def colleague(self, customer: Customer, text: str) -> None:
        """A human writes to the customer from the business's phone, and has the conversation."""
        stanza = f"3B{next(self._count):030X}"
        with self._lock:
            self._ledgers[customer.phone_number].colleague.append(text)
        self._tell("colleague", customer, text=text, id=stanza)
        # Who answers a first message sooner is taken for the business app's greeting.
        at = max(time.time(), self._since.get(customer.phone_number, 0.0) + HUMAN)
        delivery = self.whatsapp.written_by_colleague(customer, stanza, text, at)
        self._deliver(customer, delivery, message=stanza)

    # What breaks

    def kill(self) -> int | None:
        """SIGKILL for the bot's process; another one is started. Its id, if one was there."""
        pid = self.bot.kill()
        if pid is not None:
            self.timeline.add("fault", fault="kill", pid=pid)
        return pid

    def fault(self, name: str) -> None:
        """Break something, or mend it: one of ``FAULTS``.

        Raises:
            LookupError: There is no such fault.
        """
        if name not in faults:
            message = f"there is no fault {name!r}"
            raise LookupError(message)
        faults[name](self)

    def _api_away(self) -> None:
        self.timeline.add("fault", fault="api away", on=True)
        self.api.stop()

    def _api_back(self) -> None:
        self.api.start()
        self.timeline.add("fault", fault="api away", on=False)

    def _api_fails(self) -> None:
        self.api.failing += 1
        self.timeline.add("fault", fault="api fails")

    def _waha_refuses(self) -> None:
        self.whatsapp.refuse(500, message="the workbench refuses")
        self.timeline.add("fault", fault="waha refuses")

    def _waha_loses(self) -> None:
        self.whatsapp.lose_answers()
        self.timeline.add("fault", fault="waha loses")

    def _echo_late(self) -> None:
        self._late = True
        self.timeline.add("fault", fault="echo late")

    def _store_away(self) -> None:
        """Nothing can be written into the store for a while: its file is locked."""

        def hold() -> None:
            with suppress(sqlite3.Error):
                held = sqlite3.connect(self._path, timeout=2, isolation_level=None)
                try:
                    held.execute("BEGIN EXCLUSIVE")
                    self.timeline.add("fault", fault="store away", on=True)
                    time.sleep(STORE_AWAY)
                    held.execute("ROLLBACK")
                finally:
                    held.close()
                    self.timeline.add("fault", fault="store away", on=False)

        threading.Thread(target=hold, daemon=True).start()

    def expire(self, customer: Customer) -> None:
        """Let the customer's session at the API server expire, as it would after 24 hours.

        Raises:
            LookupError: Something still waits, which would be done long before.
        """
        if not self.state(customer)["settled"]:
            message = "something of this conversation still waits: no day passes before it is done"
            raise LookupError(message)
        with self._lock, suppress(ConvSyncError):
            kept = self.api.conversation(customer.phone_number)
            if kept.session_id not in self._ended:
                self.api.expire(kept.session_id)
                self._ended.add(kept.session_id)
                kept = self.api.conversation(customer.phone_number)
                told = [(each.role, each.content) for each in kept.messages]
                self._ledgers[customer.phone_number].over += told
        self._tell("fault", customer, fault="expire")

    # What operators do

    def pause(self, customer: Customer, seconds: float) -> None:
        """Give the conversation to a human for so long; 0 gives it back."""
        key = run(operators.conversation_key_of(self.store, customer.phone_number))
        run(operators.pause(self.store, key, seconds))
        self._tell("paused" if seconds else "resumed", customer, seconds=seconds)

    def retry(self, customer: Customer) -> int:
        """Give the conversation's dead letters back to the bot."""
        key, letters = self._dead_letters(customer)
        ledger = self._ledgers[customer.phone_number]
        # An event's message stands in the history once more, before its late answer.
        for letter in letters:
            if letter.queue == "inbox":
                ledger.written[letter.id] = [words for _, words in _held([letter])]
        number = run(operators.retry(self.store, key))
        self._tell("retried", customer, number=number)
        return number

    def discard(self, customer: Customer) -> int:
        """Give the conversation's dead letters up."""
        key, letters = self._dead_letters(customer)
        self._ledgers[customer.phone_number].given_up += _held(letters)
        number = run(operators.discard(self.store, key))
        self._tell("discarded", customer, number=number)
        return number

    def _dead_letters(self, customer: Customer) -> tuple[str, Sequence[DeadLetter]]:
        key = run(operators.conversation_key_of(self.store, customer.phone_number))
        return key, run(self.store.dead_letters(key, most=1000))

    # What it looks like

    def settle(self, customer: Customer, seconds: float) -> State | None:
        """Wait until nothing of a conversation waits any more; None if that takes too long."""
        until = time.monotonic() + seconds
        while not self._over.is_set():
            with suppress(ConvSyncError, httpx.HTTPError):  # the store is away, say
                if (state := self.state(customer))["settled"]:
                    self._hear_out(customer, state["turns"])
                    self._show_out(state)
                    return state
            if time.monotonic() > until:
                return None
            with self._looked:
                self._looked.wait(LOOK)
        return None

    def case(self, customer: Customer) -> str:
        """The talk with a customer as a case, YAML.

        Raises:
            LookupError: They have not written yet, or the beginning is forgotten.
        """
        state = self.settle(customer, 0.0) or {"conversation": None}
        now = {"kind": "state", "who": customer.phone_number, "conversation": state["conversation"]}
        return recording.talk([*self.timeline.since(), now], customer.phone_number).yaml

    def _hear_out(self, customer: Customer, turns: int) -> None:
        """Wait for what the bot's process has told of these turns, and is on its line still."""

        def is_told(facts: list[Fact]) -> bool:
            who = {"who": customer.phone_number, "kind": "phase over", "phase": "commit"}
            return sum(who.items() <= fact.items() for fact in facts) >= turns

        self.timeline.wait(is_told, TOLD)

    def _show_out(self, settled: State) -> None:
        """Wait until who listens has been told so."""

        def is_told() -> bool:
            last = self._states.get(settled["who"])
            return last is not None and all(
                last[name] == settled[name] for name in ("settled", "turns", "sent", "dead")
            )

        if not is_told():
            self._touch(settled["who"])
            with self._looked:
                self._looked.wait_for(is_told, TOLD)

    def listen(self, listener: Callable[[State], None]) -> list[State]:
        """Be told the state of a conversation whenever it has changed; those of now."""
        with self._lock:
            self._listeners.append(listener)
            return list(self._states.values())

    def unlisten(self, listener: Callable[[State], None]) -> None:
        """Be told no more."""
        with self._lock:
            self._listeners.remove(listener)

    def state(self, customer: Customer) -> State:
        """One conversation: as the API server has it, what waits and why, and what was counted."""
        number = customer.phone_number
        # What is on its way enters the store before it leaves that, and the other way round.
        with self._lock:
            ledger = self._ledgers[number]
            began, on_way = ledger.size, self._on_way[number]
        key = run(operators.conversation_key_of(self.store, number))
        told = run(operators.inspect_conversation(self.store, key))
        view, on_way = told.view, on_way + self._on_way[number]
        queues = view.inbox, view.outbox, view.replies
        held = any((queue.held_until or 0) > view.now for queue in queues)
        nothing_waits = not (on_way or held or sum(queue.depth for queue in queues))
        found = None
        with self._lock:
            with suppress(ConvSyncError):
                found = self.api.conversation(number)
            history = list[Said]()
            if found is not None and found.session_id not in self._ended:
                history = [(each.role, each.content) for each in found.messages]
            settled = nothing_waits and ledger.size == began
            counted: Tally = tally(ledger, history, settled=settled, dead=_held(told.dead_letters))
        document = None
        if found is not None:
            self._sessions[found.session_id] = number
            document = found.model_dump(mode="json", by_alias=True)
        return {
            "who": number,
            "conversation": document,
            "queues": {
                "inbox": view.inbox.depth,
                "outbox": view.outbox.depth,
                "replies": view.replies.depth,
            },
            "paused": None
            if view.paused_until is None
            else max(0, round(view.paused_until - view.now)),
            "turns": view.turns,
            "reasons": told.reasons(),
            "dead": [
                {"queue": one.queue, "reason": operators.reason_of(one)}
                for one in told.dead_letters
            ],
            "settled": settled,
            "sent": counted.sent,
            "lost": counted.lost,
            "doubled": counted.doubled,
        }

    def _look(self) -> None:
        """Compute states whose conversations have changed, and those in which something waits."""
        waiting = set[str]()
        while not self._over.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._dirty or self._over.is_set(), LOOK if waiting else None
                )
                numbers = {*self._dirty, *waiting}
                self._dirty.clear()
            time.sleep(0.02)  # what comes at once is shown at once
            for number in numbers:
                if self._over.is_set():
                    return
                if (customer := self.customers.get(number)) is None:
                    waiting.discard(number)
                    continue
                try:
                    state = self.state(customer)
                except (ConvSyncError, httpx.HTTPError):  # the store is away, say
                    waiting.add(number)
                    continue
                waiting.discard(number) if state["settled"] else waiting.add(number)
                with self._lock:
                    if self._states.get(number) != state:
                        self._states[number] = state
                        for listener in self._listeners:
                            listener(state)
                        if state["settled"]:
                            told = {"conversation": state["conversation"]}
                            self.timeline.add("state", who=number, **told)
            with self._looked:
                self._looked.notify_all()

    # What is told

    def _touch(self, number: str | None) -> None:
        with self._changed:
            self._dirty |= {number} if number else {*self.customers}
            self._changed.notify_all()

    def _tell(self, kind: str, customer: Customer, **facts: Any) -> None:
        self.timeline.add(kind, who=customer.phone_number, **facts)
        self._touch(customer.phone_number)

    def _of_bot(self, kind: str, **facts: Any) -> None:
        who = self._whose(facts.get("key"))
        self.timeline.add(kind, **({"who": who} if who else {}), **facts)
        if kind in {"phase over", "turn over", "call", "turn", "worker"}:
            self._touch(who)

    def _whose(self, key: str | None) -> str | None:
        if key is None or key in self._keys:
            return self._keys.get(key or "")
        for _ in range(TRIES):
            try:
                for number in self.customers.keys() - self._keys.values():
                    name = run(operators.conversation_key_of(self.store, number))
                    self._keys[run(self.store.view(name, most=1)).conversation_key] = number
            except StoreError:  # it is away
                if self._over.wait(AGAIN):
                    break
            else:
                break
        return self._keys.get(key)

    def _of_whatsapp(self, kind: str, *, chat: str, **facts: Any) -> None:
        customer = next((c for c in self.customers.values() if chat in {c.chat, c.lid}), None)
        if customer is None:
            return
        number = customer.phone_number
        if kind == "said":
            with self._lock:
                self._ledgers[number].read.append(_recorded(facts))
                self._on_way[number] += 1
            self._tell(kind, customer, **facts)
            threading.Thread(target=self._echo, args=(customer, facts["id"]), daemon=True).start()
        else:
            self._tell(kind, customer, **facts)

    def _of_api(self, kind: str, *, ids: list[str], **facts: Any) -> None:
        who = next((c for each in ids if (c := self._owner(each))), None)
        self.timeline.add(kind, **({"who": who} if who else {}), **facts)
        self._touch(who)

    def _owner(self, name: str) -> str | None:
        if name in self._sessions:
            return self._sessions[name]
        digits = name.lstrip("+").partition("@")[0]
        return next((n for n in self.customers if n.lstrip("+") == digits), None)

    def _content(self, customer: Customer, stanza: str, text: str) -> str:
        """What the history holds of a message with these words: a quote and a photo, too."""
        delivery = self.whatsapp.written(customer, stanza, text, **self._said[stanza])
        event = waha.parse_event(waha.parse_json(delivery["content"]))
        return event.content if isinstance(event, InboundEvent) else text

    def _last_of(self, customer: Customer) -> str:
        if customer.phone_number not in self._last:
            message = f"{customer.name} has not written yet"
            raise LookupError(message)
        return self._last[customer.phone_number]

    def _quoted(self, customer: Customer, text: str) -> dict[str, str]:
        """What the customer quotes: a message of the bot's with these words, else the words."""
        sent = [each for each in self.whatsapp.sent if each.chat_id == customer.chat]
        found = next((each for each in reversed(sent) if text in each.text), None)
        if found is None:
            return {"id": f"true_{customer.chat}_3EB0", "body": text}
        return {"id": f"true_{customer.chat}_{found.id}", "body": found.text}

    # Deliveries: WAHA's webhooks to the API server and to the bot, tried until they are taken

    def _deliver(
        self, customer: Customer, delivery: Delivery, *, message: str, again: bool = False
    ) -> None:
        with self._lock:
            self._on_way[customer.phone_number] += 1

        def deliver() -> None:
            try:
                self._until_taken(customer, delivery, self._api_webhook)
                taken = self._until_taken(customer, delivery, lambda: self.bot.wait(AGAIN))
            finally:
                with self._lock:
                    self._on_way[customer.phone_number] -= 1
            self._tell("delivered", customer, id=message, status=taken, again=again)

        threading.Thread(target=deliver, daemon=True).start()

    def _api_webhook(self) -> str:
        return f"{self.api.base_url}{self.api.profile.prefix}/webhook/waha"

    def _echo(self, customer: Customer, sent_id: str) -> None:
        sent = next(each for each in self.whatsapp.sent if each.id == sent_id)
        late, self._late = self._late, False
        try:
            time.sleep(LATE if late else 0.15)
            taken = self._until_taken(
                customer, self.whatsapp.echoed(sent), lambda: self.bot.wait(AGAIN)
            )
        finally:
            with self._lock:
                self._on_way[customer.phone_number] -= 1
        self._tell("echo", customer, id=sent_id, late=late, status=taken)

    def _until_taken(
        self, customer: Customer, delivery: Delivery, where: Callable[[], str | None]
    ) -> str | None:
        for number in range(TRIES):
            if self._over.is_set():
                return None
            url = where()
            if url is None:  # nobody listens: WAHA tries again later
                continue
            with suppress(httpx.HTTPError, RuntimeError):
                answer = self._web.post(url, **delivery)
                if answer.status_code < 300:
                    told = answer.json()
                    return str(told.get("status", "taken"))
                if answer.status_code < 500:
                    return f"refused: {answer.text}"
            if number in {0, 10}:
                self._tell("undelivered", customer, tries=number + 1)
            time.sleep(AGAIN)
        return None


def _recorded(said: Mapping[str, Any]) -> str:
    """What the history holds of a message: of a file its caption and kind."""
    if said["file"] is None:
        return str(said["text"])
    kind, name = said["file"]["mimetype"], said["file"]["name"]
    media = Media(mimetype=kind, filename=None if str(name).startswith("file.") else name)
    is_voice = kind.startswith("audio/ogg")
    return content_of(said["text"], media=media.called("voice message") if is_voice else media)


def _held(letters: Iterable[DeadLetter]) -> list[Said]:
    """The words in dead letters, and whose they are."""
    held: list[Said] = []
    for letter in letters:
        with suppress(ValueError):
            if letter.queue == "outbox":
                write = Write.stored(letter.body)
                held += [(each.role, each.content) for each in write.messages[letter.pos :]]
            elif letter.queue == "replies":
                held.append(("bot", PendingReply.model_validate_json(letter.body).text))
            else:
                held.append(("user", QueuedMessage.model_validate_json(letter.body).content))
    return held


#: What can be broken at a click.
faults: dict[str, Callable[[World], Any]] = {
    "kill": World.kill,
    "api away": World._api_away,  # noqa: SLF001 - of this module
    "api back": World._api_back,  # noqa: SLF001
    "api fails": World._api_fails,  # noqa: SLF001
    "waha refuses": World._waha_refuses,  # noqa: SLF001
    "waha loses": World._waha_loses,  # noqa: SLF001
    "echo late": World._echo_late,  # noqa: SLF001
    "store away": World._store_away,  # noqa: SLF001
}
