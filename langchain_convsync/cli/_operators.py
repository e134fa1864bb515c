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
from langchain_convsync._lines import count_of
from langchain_convsync.cli._conversation import facts, lines
from langchain_convsync.cli._dead_letters import dead_letters
from langchain_convsync.cli._printable import wrapped
from langchain_convsync.cli._store import AsJson, Store, opened_store
from langchain_convsync.errors import (
    ConfigurationError,
    InvalidPhoneNumberError,
    NoInterruptError,
)
from langchain_convsync.phone import phone_of
from langchain_convsync.stores import EventStore

if TYPE_CHECKING:
    from langchain_convsync.turns.interrupts import WaitingRun
    from langchain_convsync.turns.operators import OperatorView

_WHO = "The customer's phone number, chat id, BSUID or other id, or the conversation's key."
Customer = Annotated[str, typer.Argument(metavar="PHONE-or-KEY", help=_WHO)]
CustomerOrAll = Annotated[
    str | None, typer.Argument(metavar="[PHONE-or-KEY]", help=f"{_WHO} Or --all.")
]
Account = Annotated[
    str,
    typer.Option(
        help="The receiving side, where the customer wrote to several: its subdomain, bot id, "
        "number, WAHA session, or key; a ConvSyncChatMessageHistory's is 'convsync journal BOT_ID'."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="Those of the whole store.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Only those whose reason contains this.")]

#: What an erasure in a store cannot reach.
ELSEWHERE = (
    "what stays is in replicas and backups, in the files of a Redis until it rewrites them, at the "
    "API server, at WAHA and in logs"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """One conversation in an open store.

    Args:
        store: The store.
        name: The key that was asked for, an alias's too.
        inspected: What is in the conversation.
    """

    store: EventStore
    name: str
    inspected: OperatorView

    @property
    def keys(self) -> dict[str, str]:
        """The keys under which logs and store know it and its account."""
        key = self.inspected.view.conversation_key
        return {"conversation": key, "account": key[:15]}


def show(
    customer: Customer,
    store: Store = None,
    account: Account = "default",
    *,
    text: Annotated[bool, typer.Option("--text", help="Show what was written, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what is in one conversation and why it waits; it acquires nothing of it."""
    with _place(customer, store, account) as place:
        found = facts(place.inspected, texts=text)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for line in lines(found):
        typer.echo(wrapped(line))


def record(
    customer: Customer,
    store: Store = None,
    account: Account = "default",
    *,
    text: Annotated[
        bool, typer.Option("--text", help="With what was written; else only how long it was.")
    ] = False,
) -> None:
    """Print a conversation as a case for convsync replay: what its last turn left in the store.

    The conversation stands there by its key. Where a text has the customer's own number, it has
    another one in the case.
    """
    from langchain_convsync.workbench.recording import kept

    with _place(customer, store, account) as place:
        typer.echo(kept(place.inspected, texts=text).yaml, nl=False)


def retry(
    customer: CustomerOrAll = None,
    store: Store = None,
    account: Account = "default",
    *,
    everything: All = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters back to the workers: a conversation's, or all; they arrive out of order."""
    from langchain_convsync.turns import operators

    if everything:
        _require_no_customer(customer, account)
        with _audited_store(store) as opened:
            if not reason and (amount := run(operators.count_dead_letters(opened))):
                _confirm(f"Give {count_of(amount, 'dead letter')} of the whole store back?", yes)
            amount = run(operators.retry(opened, None, reason=reason))
        _told(f"{amount} given back to the workers", as_json, retried=amount)
        return
    with _place(_required(customer), store, account) as place:
        amount = run(operators.retry(place.store, place.name, reason=reason))
    _told(f"{amount} given back to the workers", as_json, **place.keys, retried=amount)


def discard(
    customer: CustomerOrAll = None,
    store: Store = None,
    account: Account = "default",
    *,
    everything: All = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up, a conversation's or all: they are never sent or answered."""
    from langchain_convsync.turns import operators

    if everything:
        _require_no_customer(customer, account)
        with _audited_store(store) as opened:
            if amount := run(operators.count_dead_letters(opened, reason=reason)):
                _confirm(f"Discard {count_of(amount, 'dead letter')} of the whole store?", yes)
            amount = run(operators.discard(opened, None, reason=reason))
        _told(f"{amount} discarded", as_json, discarded=amount)
        return
    with _place(_required(customer), store, account) as place:
        amount = sum(operators.is_for(one, reason) for one in place.inspected.dead_letters)
        if amount:
            _confirm(f"Discard {count_of(amount, 'dead letter')}?", yes)
        amount = run(operators.discard(place.store, place.name, reason=reason))
    _told(f"{amount} discarded", as_json, **place.keys, discarded=amount)


def pause(
    customer: Customer,
    seconds: Annotated[
        float,
        typer.Option("--for", metavar="SECONDS", min=1.0, max=1e9, help="How long it is theirs."),
    ],
    store: Store = None,
    account: Account = "default",
    *,
    new: Annotated[
        bool, typer.Option("--new", help="Also a customer of whom the store knows nothing yet.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give a conversation to a human: what the customer writes is recorded, not answered."""
    from langchain_convsync.turns import operators

    with _place(customer, store, account, unknown=new) as place:
        run(operators.pause(place.store, place.name, seconds))
    _told(f"paused for {seconds:g} seconds", as_json, **place.keys, paused_for=seconds)


def resume(
    customer: Customer,
    store: Store = None,
    account: Account = "default",
    *,
    as_json: AsJson = False,
) -> None:
    """Let the agent answer a conversation again, from the customer's next message on."""
    from langchain_convsync.turns import operators

    with _place(customer, store, account) as place:
        run(operators.pause(place.store, place.name, 0.0))
    _told("the agent answers again", as_json, **place.keys, paused_for=None)


def answer(
    customer: Customer,
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
    with _place(customer, store, account) as place:
        try:
            run(operators.answer(place.store, place.name, decide))
        except NoInterruptError as error:
            typer.echo(f"convsync: {error}", err=True)
            raise typer.Exit(1) from error
    _told("answered; a worker goes on with it", as_json, **place.keys, answered=True)


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
    customer: Customer,
    store: Store = None,
    account: Account = "default",
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Erase everything that the store keeps of a conversation; not what is kept elsewhere."""
    from langchain_convsync.turns import operators

    with _place(customer, store, account, unknown=True) as place:  # records of what is done, too
        _confirm("Erase it with everything that is not answered or delivered yet?", yes)
        if not run(operators.forget(place.store, place.name)):
            raise _unknown()
    _told(f"erased from the event store; {ELSEWHERE}", as_json, **place.keys, forgotten=True)


def link(
    customer: Customer,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Another id of the customer.")],
    store: Store = None,
    account: Account = "default",
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Let another id of a customer lead to their conversation, a new BSUID for example."""
    from langchain_convsync.turns import operators

    with _place(customer, store, account) as place:
        if phone_of(customer) and phone_of(alias):
            _confirm("Are both numbers one customer's? Nothing parts them again.", yes)
        if not run(operators.link(place.store, place.name, alias)):
            message = (
                "both ids have something under way, or are of two tenants: convsync show tells "
                "what; try again when one of them is done"
            )
            typer.echo(f"convsync: {message}", err=True)
            raise typer.Exit(1)
    _told("both ids lead to one conversation now", as_json, **place.keys, linked=True)


def hash_(
    customer: Customer,
    store: Store = None,
    account: Account = "default",
    *,
    as_json: AsJson = False,
) -> None:
    """Tell the keys under which logs and store know a conversation and its account."""
    with _place(customer, store, account, unknown=True) as place:
        keys = place.keys
    told = "\n".join(f"{name:<13} {key}" for name, key in keys.items())
    typer.echo(json.dumps(keys) if as_json else told)
    if not place.inspected.known:  # logs may know it still
        raise _unknown()


COMMANDS: dict[str, Callable[..., None]] = {
    "dead-letters": dead_letters,
    "show": show,
    "record": record,
    "retry": retry,
    "discard": discard,
    "answer": answer,
    "pause": pause,
    "resume": resume,
    "forget": forget,
    "link": link,
    "hash": hash_,
}


@contextmanager
def _place(
    customer: str, store: str | None, account: str, *, unknown: bool = False
) -> Iterator[_Place]:
    """The conversation.

    Raises:
        typer.Exit: The store keeps nothing of it, unless that may be.
    """
    from langchain_convsync.turns import operators

    with _audited_store(store) as opened:
        try:
            name = run(operators.conversation_key_of(opened, customer, account))
        except InvalidPhoneNumberError as error:
            message = f"{error}; or a conversation's key, as convsync hash prints it"
            raise ConfigurationError(message) from error
        inspected = run(operators.inspect_conversation(opened, name))
        if not (inspected.known or unknown):
            raise _unknown()
        yield _Place(opened, name, inspected)


@contextmanager
def _audited_store(store: str | None) -> Iterator[EventStore]:
    """The store; what is done in it meanwhile is told on stderr, as the log has it."""
    from langchain_convsync.turns import operators

    with opened_store(store) as opened, _shown_on_stderr(operators.audit):
        yield opened


def _required(customer: str | None) -> str:
    if customer is None:
        message = "name a conversation, by PHONE or KEY, or pass --all"
        raise ConfigurationError(message)
    return customer


def _require_no_customer(customer: str | None, account: str) -> None:
    if customer is not None or account != "default":
        message = "--all takes the whole store: name no PHONE, KEY or --account with it"
        raise ConfigurationError(message)


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
    message = (
        "the store keeps nothing of this conversation: check number or key, --account and --store"
    )
    typer.echo(f"convsync: {message}", err=True)
    return typer.Exit(1)


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _told(sentence: str, as_json: bool, **result: Any) -> None:
    typer.echo(json.dumps(result) if as_json else sentence)
