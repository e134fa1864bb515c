"""The commands on one conversation: what it waits for, and what to do about it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_convsync._flow import run
from langchain_convsync.cli._conversation import facts, lines
from langchain_convsync.cli._status import existing_store
from langchain_convsync.errors import (
    ConfigurationError,
    InvalidPhoneNumberError,
    NoInterruptError,
)
from langchain_convsync.settings import required_setting
from langchain_convsync.stores import EventStore

if TYPE_CHECKING:
    from langchain_convsync.turns.interrupts import WaitingRun
    from langchain_convsync.turns.operators import OperatorView

Phone = Annotated[
    str, typer.Argument(metavar="PHONE", help="The customer's phone number, or WhatsApp chat id.")
]
Store = Annotated[str | None, typer.Option(help="The event store; CONVSYNC_STORE_URL when absent.")]
Account = Annotated[
    str,
    typer.Option(
        help="The receiving side, where the customer wrote to several: its subdomain, bot id, "
        "number, WAHA session, or key; a ConvSyncChatMessageHistory's is 'convsync journal BOT_ID'."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


#: What an erasure in a store cannot reach.
ELSEWHERE = (
    "what stays is in Redis' files until it rewrites them, in replicas and backups, at the API "
    "server, at WAHA and in logs"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """One conversation in an open store."""

    store: EventStore
    conversation_key: str

    def warn_of_nothing(self) -> None:
        """Tell where nothing is known of the conversation: it may be a mistyped one."""
        from langchain_convsync.turns import operators

        if not run(operators.inspect_conversation(self.store, self.conversation_key)).known:
            typer.echo(
                "convsync: the store knows nothing of this conversation yet: is it the right "
                "number, --account and --store?",
                err=True,
            )

    def inspect_conversation(self) -> OperatorView:
        """What is in it.

        Raises:
            typer.Exit: Nothing is.
        """
        from langchain_convsync.turns import operators

        inspected = run(operators.inspect_conversation(self.store, self.conversation_key))
        if not inspected.known:
            raise _unknown()
        return inspected


def show(
    phone: Phone,
    store: Store = None,
    account: Account = "default",
    *,
    text: Annotated[bool, typer.Option("--text", help="Show what was written, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what is in one conversation and why it waits; it acquires nothing of it."""
    with _place(phone, store, account) as place:
        inspected = place.inspect_conversation()
    found = facts(inspected, texts=text)
    typer.echo(json.dumps(found) if as_json else "\n".join(lines(found)))


def retry(
    phone: Phone, store: Store = None, account: Account = "default", *, as_json: AsJson = False
) -> None:
    """Give a conversation's dead letters back to the workers; they arrive out of order."""
    from langchain_convsync.turns import operators

    with _place(phone, store, account) as place:
        place.inspect_conversation()
        amount = run(operators.retry(place.store, place.conversation_key))
    _done(place, as_json, f"{amount} given back to the workers", retried=amount)


def discard(
    phone: Phone,
    store: Store = None,
    account: Account = "default",
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give up a conversation's dead letters: they are never sent or answered."""
    from langchain_convsync.turns import operators

    with _place(phone, store, account) as place:
        amount = len(place.inspect_conversation().dead_letters)
        if amount:
            _confirm(f"Discard the {amount} dead letters?", yes)
        amount = run(operators.discard(place.store, place.conversation_key))
    _done(place, as_json, f"{amount} discarded", discarded=amount)


def pause(
    phone: Phone,
    seconds: Annotated[
        float,
        typer.Option("--for", metavar="SECONDS", min=1.0, max=1e9, help="How long it is theirs."),
    ],
    store: Store = None,
    account: Account = "default",
    *,
    as_json: AsJson = False,
) -> None:
    """Give a conversation to a human: what the customer writes is recorded, not answered."""
    from langchain_convsync.turns import operators

    with _place(phone, store, account) as place:
        place.warn_of_nothing()
        run(operators.pause(place.store, place.conversation_key, seconds))
    _done(place, as_json, f"paused for {seconds:g} seconds", paused_for=seconds)


def resume(
    phone: Phone, store: Store = None, account: Account = "default", *, as_json: AsJson = False
) -> None:
    """Let the agent answer a conversation again, from the customer's next message on."""
    from langchain_convsync.turns import operators

    with _place(phone, store, account) as place:
        place.warn_of_nothing()
        run(operators.pause(place.store, place.conversation_key, 0.0))
    _done(place, as_json, "the agent answers again", paused_for=None)


def answer(
    phone: Phone,
    store: Store = None,
    account: Account = "default",
    *,
    approve: Annotated[bool, typer.Option("--approve", help="Do what the agent asks for.")] = False,
    reject: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Do not, and tell the agent why.")
    ] = None,
    respond: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Do not, and give it this as the result.")
    ] = None,
    value: Annotated[
        str | None, typer.Option(metavar="JSON", help="The resume value itself.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer what the agent waits for in a conversation; a worker goes on with it."""
    from langchain_convsync.turns import operators

    decide = _decision(approve=approve, reject=reject, respond=respond, value=value)
    with _place(phone, store, account) as place:
        try:
            run(operators.answer(place.store, place.conversation_key, decide))
        except NoInterruptError as error:
            typer.echo(f"convsync: {error}", err=True)
            raise typer.Exit(1) from error
    _done(place, as_json, "answered; a worker goes on with it", answered=True)


def _decision(
    *, approve: bool, reject: str | None, respond: str | None, value: str | None
) -> Callable[[WaitingRun], Any]:
    """What one of the options decides.

    Raises:
        ConfigurationError: None or several are given, or the value is not JSON.
    """
    given = [approve or None, reject, respond, value]
    if sum(each is not None for each in given) != 1:
        message = "pass one of --approve, --reject TEXT, --respond TEXT, --value JSON"
        raise ConfigurationError(message)
    if value is not None:
        try:
            resume = json.loads(value)
        except (ValueError, RecursionError) as error:
            message = f"--value is not JSON: {error}"
            raise ConfigurationError(message) from error
        return lambda _: resume
    if approve:
        return lambda waiting: waiting.decisions("approve")
    if reject is not None:
        return lambda waiting: waiting.decisions("reject", reject)
    return lambda waiting: waiting.decisions("respond", respond or "")


def forget(
    phone: Phone,
    store: Store = None,
    account: Account = "default",
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Erase everything that the store keeps of a conversation; not what is kept elsewhere."""
    from langchain_convsync.turns import operators

    with _place(phone, store, account) as place:
        _confirm("Erase it with everything that is not answered or delivered yet?", yes)
        if not run(operators.forget(place.store, place.conversation_key)):
            raise _unknown()
    _done(place, as_json, f"erased from the event store; {ELSEWHERE}", forgotten=True)


def hash_(
    phone: Phone, store: Store = None, account: Account = "default", *, as_json: AsJson = False
) -> None:
    """Tell the keys under which logs and store know a conversation and its account."""
    with _place(phone, store, account) as place:
        pass
    if as_json:
        typer.echo(json.dumps(_keys(place)))
        return
    for name, key in _keys(place).items():
        typer.echo(f"{name:<13} {key}")


COMMANDS: dict[str, Callable[..., None]] = {
    "show": show,
    "retry": retry,
    "discard": discard,
    "answer": answer,
    "pause": pause,
    "resume": resume,
    "forget": forget,
    "hash": hash_,
}


@contextmanager
def _place(phone: str, store: str | None, account: str) -> Iterator[_Place]:
    """The conversation; what is done to it meanwhile is told on stderr, as the log has it."""
    from langchain_convsync.turns import operators

    url = required_setting(store, argument="--store", variable="CONVSYNC_STORE_URL")
    opened = existing_store(url)
    try:
        with _shown_on_stderr(operators.audit):
            yield _Place(opened, run(operators.conversation_key_of(opened, phone, account)))
    except InvalidPhoneNumberError as error:
        raise ConfigurationError(str(error)) from error
    finally:
        opened.close()


@contextmanager
def _shown_on_stderr(log: logging.Logger) -> Iterator[None]:
    handler, level = logging.StreamHandler(), log.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _unknown() -> typer.Exit:
    message = "the store keeps nothing of this conversation: check number, --account and --store"
    typer.echo(f"convsync: {message}", err=True)
    return typer.Exit(1)


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _keys(place: _Place) -> dict[str, str]:
    return {"conversation": place.conversation_key, "account": place.conversation_key[:15]}


def _done(place: _Place, as_json: bool, sentence: str, **result: Any) -> None:
    typer.echo(json.dumps({**_keys(place), **result}) if as_json else sentence)
