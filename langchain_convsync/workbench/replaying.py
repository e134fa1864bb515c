"""Cases played to a bot: what is different now, step by step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from langchain_core.messages import convert_to_messages

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.workbench.cases import Case, Message, Step, Words
from langchain_convsync.workbench.comparing import Outcome, differences
from langchain_convsync.workbench.recording import Draft, state_of
from langchain_convsync.workbench.timeline import Fact
from langchain_convsync.workbench.whatsapp import Customer
from langchain_convsync.workbench.world import World

#: Seconds that a bot may take to start, and to answer a step.
START, PATIENCE = 120.0, 300.0
LATE = f"it is still not answered after {PATIENCE:g} seconds"
#: Seconds for which a human has the conversation, where a step says so.
PAUSE = 3600.0


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a case.

    Attributes:
        case: The case.
        differences: What was not as expected, a line each; none where all was.
        seconds: How long it took.
    """

    case: Case
    differences: tuple[str, ...]
    seconds: float

    @property
    def is_same(self) -> bool:
        """Whether all was as expected."""
        return not self.differences

    def __str__(self) -> str:
        if self.is_same:
            return f"{self.case.name}: as expected"
        return "\n".join((f"{self.case.name}: differs", *self.differences))


class Replay:
    """A bot that cases are played to: in a process of its own, on servers in memory.

    ::

        with Replay("my_bot:runner") as replay:
            played = replay.play(Case.load("cases/order.yaml"), words="contains")
            assert played.is_same, played

    Args:
        runner: ``MODULE:RUNNER``, as for ``convsync worker``. Its client, store and reply are those
            of the workbench; what its tools do, they do.
        subdomain: The tenant that the customers write to.
        bot_id: The bot that they write to.
    """

    def __init__(
        self,
        runner: str,
        *,
        subdomain: str = "restaurant-abc",
        bot_id: str = "65a1b2c3d4e5f60718293a4b",
    ) -> None:
        self._runner, self._tenant = runner, {"subdomain": subdomain, "bot_id": bot_id}
        self._playing: World | None = None
        self._customers: dict[str, Customer] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bot's process, and the servers."""
        with self._lock:
            if self._playing is not None:
                self._playing.close()
            self._playing = None
            self._customers.clear()

    def play(self, case: Case, *, words: Words = "none") -> Played:
        """Play a case as a customer nobody has met.

        Args:
            case: The case.
            words: How what the bot says is compared: ``none``; ``contains``: it says each text of
                the case, whatever else it says; ``exact``: it says the same, letter by letter.
                Marks, spaces and case do not count.

        Raises:
            ConfigurationError: The runner does not start, or the case holds no words to say.
        """
        for number, step in enumerate(case.steps, 1):
            if any(
                isinstance(m, Message) and m.characters is not None for m in step.customer or ()
            ):
                message = (
                    f"{case.name}, step {number}: the customer's words are left out: write some, "
                    "or record it with --text"
                )
                raise ConfigurationError(message)
        world = self._world()
        began, customer, found = time.monotonic(), world.meet(), list[str]()
        try:
            for number, step in enumerate(case.steps, 1):
                seen = _done(world, customer, step)
                told = [LATE] if seen is None else differences(step, seen, words)
                if told:
                    found += [f"  step {number}, {step.title}", *(f"    {line}" for line in told)]
                if seen is None:
                    break
        finally:
            world.part(customer)
        return Played(case, tuple(found), time.monotonic() - began)

    def answer(self, message: Any, *, thread_id: str = "", **_: Any) -> dict[str, str]:
        """Say something to the bot as a customer, and get what they read: openevals' ``app=``.

        Args:
            message: What the customer says: a text, a message, or a dict with role and content.
            thread_id: Which customer says it; each is a conversation of its own.

        Returns:
            A message with role ``assistant``; its content is empty where the bot says nothing.

        Raises:
            ConfigurationError: The runner does not start.
            TimeoutError: It does not answer.
        """
        [said] = convert_to_messages([message])
        world = self._world()
        with self._lock:
            if thread_id not in self._customers:
                self._customers[thread_id] = world.meet()
            customer = self._customers[thread_id]
        seen = _done(world, customer, Step(customer=[str(said.text)]))
        if seen is None:
            raise TimeoutError(LATE)
        return {"role": "assistant", "content": "\n".join(seen.bot)}

    async def aanswer(self, message: Any, *, thread_id: str = "", **_: Any) -> dict[str, str]:
        """:meth:`answer`, awaited."""
        return await asyncio.to_thread(self.answer, message, thread_id=thread_id)

    def _world(self) -> World:
        """The world, with the bot at work; made when it is asked for first."""
        with self._lock:
            if self._playing is None:
                world = World(self._runner, **self._tenant, is_replay=True)
                world.bot.start()
                if not world.ready(START):
                    world.close()
                    raise ConfigurationError(_why(world.timeline.since()))
                self._playing = world
            return self._playing


def _why(facts: list[Fact]) -> str:
    """Why a bot does not start, as it told."""
    told = [fact["text"] for fact in facts if fact["kind"] == "log" and fact["text"].strip()]
    last = told[-1] if told else "it told nothing"
    ours = last.removeprefix("convsync: ")
    return ours if ours != last else f"the runner does not start: {last}"


def _done(world: World, customer: Customer, step: Step) -> Outcome | None:
    """What came of a step; None where it is not over in time."""
    before = world.timeline.last
    for deed in _deeds(world, customer, step):
        last = world.timeline.last
        deed()
        if step.do is None:  # the next message comes behind this one
            world.timeline.wait(lambda told: _is_delivered(told, customer), PATIENCE, since=last)
    state = world.settle(customer, PATIENCE)
    if state is None:
        return None
    draft = Draft()
    for fact in world.timeline.since(before):
        if fact.get("who") == customer.phone_number:
            draft.take(fact)
    kept = state["conversation"]
    return replace(draft.outcome, state=None if kept is None else state_of(kept))


def _is_delivered(facts: Iterable[Fact], customer: Customer) -> bool:
    who = {"kind": "delivered", "who": customer.phone_number}
    return any(who.items() <= fact.items() for fact in facts)


def _deeds(world: World, customer: Customer, step: Step) -> Iterator[Callable[[], Any]]:
    if step.colleague is not None:
        yield partial(world.colleague, customer, step.colleague)
    elif step.do == "expire":
        yield partial(world.expire, customer)
    elif step.do is not None:
        yield partial(world.pause, customer, PAUSE if step.do == "pause" else 0.0)
    messages = step.customer or []
    for number, each in enumerate(messages, 1):
        message = Message(text=each) if isinstance(each, str) else each
        if message.edit is not None:
            yield partial(world.edit, customer, message.edit)
        elif message.revoke:
            yield partial(world.revoke, customer)
        else:
            yield partial(
                world.write,
                customer,
                message.text or "",
                quotes=message.quotes,
                image=message.image,
                more=number < len(messages),
            )
