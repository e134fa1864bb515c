"""Under which keys a store knows who wrote to whom: of all that a source tells of both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from langchain_convsync import phone, waha
from langchain_convsync._flow import Flow, monotonic
from langchain_convsync.errors import InvalidEventError
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import AccountKey, EventStore, Keys, NewEvent
from langchain_convsync.stores.changed import check_names_of
from langchain_convsync.stores.facts import agree, is_one_side

#: What a source calls a receiving side that it has no name for; WAHA's free edition calls all so.
UNNAMED = "default"
#: Seconds for which it is remembered which accounts a message of the business may be of.
LIFETIME = 10.0
#: What :mod:`langchain_convsync.stores.facts` calls a kind of customer id.
_KINDS: dict[phone.Kind, str] = {
    "phone": "p",
    "bsuid": "u",
    "lid": "l",
    "group": "g",
    "opaque": "o",
}
#: A message of the business itself, or what is told about one.
OwnMessage: TypeAlias = waha.OperatorMessage | waha.Ignored
#: Whatever tells who was written to, and by whom.
Source: TypeAlias = InboundEvent | OwnMessage
Event = TypeVar("Event", bound=InboundEvent)


def account_facts(source: Source) -> dict[str, str]:
    """What a source tells of the receiving side, by kind; see ``stores/facts.py``."""
    session = source.waha_session if source.waha_session != UNNAMED else None
    name = source.account if source.account not in {UNNAMED, source.waha_session} else None
    told = {
        "a": name,
        "b": source.bot_id,
        "d": source.subdomain,
        "n": phone.canonical(source.business_number or ""),
        "s": session,
    }
    return {kind: value for kind, value in told.items() if value}


def is_named(source: Source) -> bool:
    """Whether the source tells its receiving side from others; else the API server alone knows."""
    return bool(account_facts(source))


def customers_of(source: Source) -> list[str]:
    """Every customer id that a source tells, and the group, the surest first."""
    people, group = people_of(source), phone.identity_of(source.chat_id)
    return [*people, group] if group is not None and group not in people else people


def names_of(source: Source) -> list[str]:
    """Whose conversation it is, by every customer id that a source tells, the surest first."""
    return people_of(source) or customers_of(source)


def known_as(event: Event, phone_number: str) -> Event:
    """The event of a customer whose phone number it does not tell."""
    named = event.phone_number
    aliases = event.aliases if named is None else (named, *event.aliases)
    return event.model_copy(update={"phone_number": phone_number, "aliases": aliases})


def people_of(source: Source) -> list[str]:
    """Every customer id of the one person that a source tells: a phone number first, if any."""
    others = source.aliases if isinstance(source, InboundEvent) else ()
    people = phone.known_people(source.phone_number, *others, source.lid, source.chat_id)
    return sorted(people, key=lambda who: not who.startswith("+"))


@dataclass(slots=True)
class Naming:
    """The keys of one store.

    Args:
        store: The store.
        clock: Seconds that only ever grow.
    """

    store: EventStore
    clock: Callable[[], float] = monotonic
    _near: dict[AccountKey, tuple[float, list[AccountKey]]] = field(
        default_factory=dict, init=False
    )
    _keys: Keys | None = field(default=None, init=False)
    _accounts: dict[AccountKey, AccountKey] = field(default_factory=dict, init=False)

    def keys(self) -> Flow[Keys]:
        """The store's keys."""
        keys = yield from self.store.keys()
        if keys is not self._keys:  # what was remembered of another one does not hold in this store
            self._accounts.clear()
            self._near.clear()
            self._keys = keys
        return keys

    def _named(self, source: Source) -> Flow[tuple[AccountKey, str]]:
        """An account key, and the facts that it is made of; none where nothing is told."""
        keys, told = (yield from self.keys()), account_facts(source)
        if not told:
            return keys.account(UNNAMED), ""
        facts, name = keys.facts(told), told.get("a", source.waha_session or source.account)
        name_alone = set(told) in ({"a"}, {"s"})
        return keys.account(name, "" if name_alone else facts), facts

    def account(self, source: Source) -> Flow[AccountKey]:
        """The receiving side; sources that tell more or less of one side share it."""
        key, facts = yield from self._named(source)
        if facts and key not in self._accounts:
            self._accounts[key] = yield from self.store.account(key, facts)
        return self._accounts.get(key, key)

    def accounts_of(self, own: OwnMessage) -> Flow[list[AccountKey]]:
        """The receiving sides that a message of the business may be of, the likeliest first.

        What customers write may be told by another source, which tells more of the same side.
        """
        key, facts = yield from self._named(own)
        if not facts:
            return [key]
        until, near = self._near.get(key, (0.0, []))
        if self.clock() > until:
            known = yield from self.store.accounts()
            near = [each for each, has in known.items() if each != key and is_near(has, facts)]
            if near:  # else the customer's first message may be on its way
                self._near[key] = self.clock() + LIFETIME, near
        return [key, *near] if len(near) == 1 else [key]

    def conversation(self, source: Source, customer: str) -> Flow[str]:
        """The conversation key of a customer of the receiving side.

        Raises:
            InvalidPhoneNumberError: ``customer`` is not a customer id.
        """
        account, customer = (yield from self.account(source)), phone.normalize(customer)
        return (yield from self.keys()).conversation(account, customer)

    def conversations_of(
        self, own: OwnMessage, *, and_unnamed: bool = False
    ) -> Flow[dict[str, AccountKey]]:
        """Every conversation that a message of the business may stand in, and its account.

        Its customer's phone number may lead to another one than their LID, as long as no event of
        theirs told both.

        Args:
            own: The message.
            and_unnamed: Those too whose account no source names: where the message itself proves
                that it is of one of them.
        """
        keys, accounts = (yield from self.keys()), (yield from self.accounts_of(own))
        if and_unnamed:
            accounts = list(dict.fromkeys((*accounts, keys.account(UNNAMED))))
        return {
            keys.conversation(each, who): each for each in accounts for who in customers_of(own)
        }

    def changed(self, change: waha.Ignored, target: str) -> Flow[str | None]:
        """The event key of the message that an edit or a revocation is about.

        Args:
            change: The edit or revocation.
            target: The message, as :func:`waha.event_id` names it.
        """
        keys = yield from self.keys()
        source = keys.source("message", target)
        facts = keys.facts(_customer_facts(customers_of(change)))
        for account in (yield from self.accounts_of(change)):
            if (found := (yield from self.store.find(account, source, facts))) is not None:
                return found
        return None

    def event(
        self, event: InboundEvent, payload: str, account: AccountKey | None = None
    ) -> Flow[NewEvent]:
        """An event under its keys.

        Args:
            event: The event.
            payload: What the store keeps of it.
            account: The receiving side, where it is known already.

        Raises:
            InvalidEventError: It names no customer.
            InvalidPhoneNumberError: What it names is not a customer id.
        """
        told = (event.phone_number, *event.aliases, event.lid)
        if not (given := [who for who in told if who] or [event.chat_id or ""])[0]:
            message = "the event names no customer: set phone_number or chat_id"
            raise InvalidEventError(message)
        names = [phone.normalize(who) for who in given]
        customer, *others = people_of(event) or names
        keys, account = (yield from self.keys()), account or (yield from self.account(event))
        check_names_of(keys, (yield from self.keys()))  # the account may be of the next one
        words = keys.facts({"t": event.content})
        own, is_wahas = event.event_id, event.event_id.startswith(("true_", "false_"))
        is_whatsapps = is_wahas or own.startswith("wamid.")  # every source has it alike
        if is_wahas:  # in any spelling
            own = waha.event_id(own, from_me=own.startswith("true_"))
        # Every tenant's source may number its messages alike.
        unique = own if is_named(event) else f"{own}\0{words}"
        facts = {**account_facts(event), **_customer_facts(customers_of(event))}
        if text := " ".join(event.text.split()):  # a source may tell less of what came along
            facts["t"] = text
        return NewEvent(
            event_key=keys.event(account, customer, "message", unique),
            conversation_key=keys.conversation(account, customer),
            aliases=tuple(keys.conversation(account, other) for other in others),
            digest=words,
            source=keys.source("message", own if is_whatsapps else f"{account} {unique}"),
            facts=keys.facts(facts) if is_whatsapps else "",
            payload=payload,
            names=keys,
        )


def is_near(known: str, told: str) -> bool:
    """Whether what is told may be of an account: by what tells it from all others, if anything.

    A WAHA session's name does where nothing else is told: every container may call one so.
    """
    if is_one_side(known, told):
        return True
    names_alone = all(fact[0] in "as" for fact in told.split())
    return names_alone and agree(known, told) and not {*known.split()}.isdisjoint(told.split())


def _customer_facts(customers: Iterable[str]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for who in customers:  # of two of a kind the surest counts
        facts.setdefault(_KINDS[phone.kind_of(who)], phone.canonical(who))
    return facts
