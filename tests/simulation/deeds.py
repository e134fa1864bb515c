"""What is done in a conversation besides writing: each is repeated until a process has done it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.messages import AIMessage, HumanMessage

from langchain_convsync import _platform, waha
from langchain_convsync._flow import Flow, run
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.errors import NoInterruptError
from langchain_convsync.turns import TurnRunner, operators
from tests.chaos.script import Talk

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Done on a strand of the outside; what follows it in its burst begins when it is over.
Deed: TypeAlias = "Callable[[World, Talk], None]"


def waits(seconds: float) -> Deed:
    """Let virtual seconds pass."""
    return lambda world, _: world.simulation.rest(seconds)


def sets_clock(seconds: float) -> Deed:
    """Somebody puts the clock of the machine forward, or back."""
    return lambda world, _: world.simulation.set_clock(seconds)


def colleague(message_id: str, text: str, *, seconds: float = 600.0) -> Deed:
    """A human writes to the customer from the business's phone."""

    def done(world: World, talk: Talk) -> None:
        told = waha.OperatorMessage(
            event_id=f"true_{talk.chats[0]}_{message_id}",
            message_id=message_id,
            chat_id=talk.chats[0],
            phone_number=talk.phone_number,
            lid=talk.lid,
            text=text,
            account=talk.account,
            waha_session=talk.account,
            bot_id=talk.bot_id,
        )
        world.insist(talk, lambda runner: runner.take_over(told, seconds=seconds) or True)

    return done


def edits(message_id: str, text: str) -> Deed:
    """The customer changes the words of a message."""
    return _changed("edited", message_id, text)


def revokes(message_id: str) -> Deed:
    """The customer takes a message back."""
    return _changed("revoked", message_id, "")


def _changed(reason: Any, message_id: str, text: str) -> Deed:
    def done(world: World, talk: Talk) -> None:
        change = waha.Ignored(
            reason,
            account=talk.account,
            waha_session=talk.account,
            bot_id=talk.bot_id,
            target_id=message_id,
            from_me=False,
            chat_id=talk.chats[0],
            phone_number=talk.phone_number,
            lid=talk.lid,
            text=text,
        )
        world.insist(talk, lambda runner: [runner.amend(change)])

    return done


def decides(value: Any) -> Deed:
    """A human answers what the agent waits for."""

    def answer(runner: TurnRunner, talk: Talk) -> Flow[bool]:
        store = runner._engine.store
        key = yield from operators.conversation_key_of(store, talk.phone_number)
        inspected = yield from operators.inspect_conversation(store, key)
        if inspected.waiting is not None:
            yield from runner._engine.resume_interrupt(talk.phone_number, value, "default")
        return True

    def done(world: World, talk: Talk) -> None:
        def ask(runner: TurnRunner) -> bool:
            try:
                return run(answer(runner, talk))
            except NoInterruptError:  # a process was at it, and has ended it
                return True

        world.insist(talk, ask)

    return done


def says(text: str, *, after: float = 0.0, **options: Any) -> Deed:
    """The bot writes first: now, which may have to wait for a turn; or so many seconds later."""

    def done(world: World, talk: Talk) -> None:
        at = _platform.now() + timedelta(seconds=after) if after else None

        def say(runner: TurnRunner) -> bool | None:
            turn = runner.say(talk.phone_number, text, at=at, key=text, **options)
            return True if after or turn.status != "queued" else None

        world.insist(talk, say)

    return done


def renews(world: World, talk: Talk) -> None:
    """The API server begins a new session for the customer."""
    world.api.renew(talk)


def refuses(world: World, _: Talk) -> None:
    """The API server refuses every write, as if each were malformed."""
    world.api.refuses = True


def retries(world: World, talk: Talk) -> None:
    """The API server takes writes again, and an operator gives every dead letter another chance."""

    def dead(runner: TurnRunner) -> bool | None:
        return run(runner._engine.store.backlog()).dead_letters > 0 or None

    def retry(runner: TurnRunner) -> bool:
        run(operators.retry(runner._engine.store, None))
        return True

    world.insist(talk, dead)
    world.api.refuses = False
    world.insist(talk, retry)


def adds(*exchanges: tuple[str, str]) -> Deed:
    """A chain records each exchange in a history with a store, unless its process dies before."""

    def done(world: World, talk: Talk) -> None:
        def add(runner: TurnRunner) -> bool:
            history = ConvSyncChatMessageHistory(
                talk.phone_number,
                bot_id=talk.bot_id,
                client=world.client(),
                store=runner._engine.store,
            )
            for said, answered in exchanges:
                history.add_messages([HumanMessage(said), AIMessage(answered)])
            return True

        world.ask(talk, add)

    return done
