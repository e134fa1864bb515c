"""Whose conversation it is: customer ids in every spelling, and LIDs that have no number yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Select, and_, bindparam, false, inspect, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from langchain_convsync import phone
from langchain_convsync._checked import checked
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server.access import Caller
from langchain_convsync.server.tables import ConversationRow, CustomerRow

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Where(NamedTuple):
    """A condition, and the values in it.

    The condition is one that a module has: to write a statement anew costs more than to run it.
    """

    clause: ColumnElement[bool]
    values: Mapping[str, Any] = MappingProxyType({})


# The table's columns, not the class's: a statement of those takes SQLAlchemy's longer way.
_C: Any = ConversationRow.__table__.c
_NUMBER = bindparam("number", type_=_C.phone_number.type)
_THE_NUMBER = _C.phone_number == _NUMBER
_A_SPELLING = _C.phone_number.in_(bindparam("spellings", expanding=True))
_THE_LID = _C.lid == bindparam("lid")
_HAS_NUMBER = _C.phone_number.is_not(None)
_OPEN = and_(_C.is_active, _C.expires_at > bindparam("at"))
_OF_TENANTS = _C.subdomain.in_(bindparam("tenants", expanding=True))
_OF_BOT = _C.bot_id == bindparam("bot_id")
_OF_TENANT = and_(_C.subdomain == bindparam("subdomain"), _OF_BOT)
_OF_SESSION = _C.session_id == bindparam("session_id")
_ANY, _NONE = true(), false()
#: All of a conversation, under the class's names.
_READ = [column.label(name) for name, column in inspect(ConversationRow).columns.items()]


@checked
@dataclass(frozen=True)
class Tenant:
    """Who answers: a tenant and one of its bots.

    Args:
        subdomain: The tenant.
        bot_id: The bot; it begins the session ids of its conversations.

    Raises:
        ConfigurationError: One of them is not 1 to 128 letters, digits, ``.``, ``_`` or ``-``.
    """

    subdomain: str
    bot_id: str

    def __post_init__(self) -> None:
        for name, value in (("subdomain", self.subdomain), ("bot_id", self.bot_id)):
            if not _NAME.fullmatch(value):
                message = f"{name} must be 1 to 128 letters, digits, dots, dashes or underscores"
                raise ConfigurationError(message)


class Customer(NamedTuple):
    """Who writes: an E.164 phone number, a BSUID or another id, a ``…@lid``, or one and a LID."""

    phone_number: str | None
    lid: str | None

    @classmethod
    def of(cls, name: str) -> Customer:
        """The customer that an id in any spelling names, or a group; else none."""
        found = phone.identity_of(name)
        if found is None:
            return cls(None, None)
        is_number = not (found.endswith("@lid") or phone.is_group(found))
        return cls(found, None) if is_number else cls(None, found)

    def matches(self) -> Where:
        """True for the rows of this customer."""
        if self.phone_number is not None:
            spellings = list(phone.variants(self.phone_number))
            return Where(_A_SPELLING, {"spellings": spellings, "number": self.phone_number})
        return Where(_NONE) if self.lid is None else Where(_THE_LID, {"lid": self.lid})


class Exactly(Customer):
    """A customer who is found under the same text only."""

    @classmethod
    def of(cls, name: str) -> Exactly:
        """The customer stored under this very text."""
        return cls(name, None)

    def matches(self) -> Where:
        """True for the rows of this customer."""
        if self.phone_number is None:
            return Where(_NONE)
        return Where(_THE_NUMBER, {"number": self.phone_number})


def newest(db: Session, customer: Customer, *where: Where) -> ConversationRow | None:
    """The customer's conversation: the exact number's first, then the last active one."""
    wanted = (customer.matches(), *where)
    if wanted[0].clause is _NONE:
        return None
    found: ConversationRow | None
    found = db.scalar(_newest(*(each.clause for each in wanted)), _values(wanted))
    return found


def newest_to_read(db: Session, customer: Customer, *where: Where) -> ConversationRow | None:
    """The same conversation as something to read only, which costs half as much."""
    wanted = (customer.matches(), *where)
    if wanted[0].clause is _NONE:
        return None
    clauses = (each.clause for each in wanted)
    return cast(
        "ConversationRow | None",
        db.execute(_newest(*clauses, to_read=True), _values(wanted)).first(),
    )


@lru_cache(maxsize=64)
def _newest(*clauses: ColumnElement[bool], to_read: bool = False) -> Select[Any]:
    order: list[ColumnElement[Any]]
    order = [_C.last_activity.desc(), _C.id.desc()]
    if clauses[0] is _A_SPELLING:
        order.insert(0, _THE_NUMBER.desc())
    query: Select[Any] = select(*_READ) if to_read else select(ConversationRow)
    return query.where(*clauses).order_by(*order).limit(1)


def locked(db: Session, session_id: str, *where: Where) -> ConversationRow | None:
    """The conversation with this session id, which no other transaction changes meanwhile."""
    wanted = (Where(_OF_SESSION, {"session_id": session_id}), *where)
    found: ConversationRow | None
    found = db.scalar(_locked(*(each.clause for each in wanted)), _values(wanted))
    return found


@lru_cache(maxsize=64)
def _locked(*clauses: ColumnElement[bool]) -> Select[Any]:
    return select(ConversationRow).where(*clauses).with_for_update()


def _values(wanted: tuple[Where, ...]) -> dict[str, Any]:
    return {name: value for each in wanted for name, value in each.values.items()}


def is_open(at: datetime) -> Where:
    """True for conversations that are neither closed nor expired."""
    return Where(_OPEN, {"at": at})


def exists_for(caller: Caller) -> Where:
    """True for the conversations of the caller's tenants: for this caller there are no others."""
    if caller.tenants is None:
        return Where(_ANY)
    return Where(_OF_TENANTS, {"tenants": list(caller.tenants)})


def of_bot(bot_id: str) -> Where:
    """True for the conversations with this bot."""
    return Where(_OF_BOT, {"bot_id": bot_id})


def belongs_to(tenant: Tenant) -> Where:
    """True for the tenant's conversations with this bot."""
    return Where(_OF_TENANT, {"subdomain": tenant.subdomain, "bot_id": tenant.bot_id})


def linked(db: Session, customer: Customer, tenant: Tenant, at: datetime) -> ConversationRow | None:
    """The customer's conversation with this bot, after what the event tells about number and LID.

    One that was known by its LID alone learns its number. Where number and LID have a conversation
    each, the number's goes on, and the other one is found no more. A LID that moved to another
    number leaves the conversation of the old one.
    """
    by_number, by_lid = (
        newest(db, part, belongs_to(tenant), is_open(at))
        for part in (customer._replace(lid=None), customer._replace(phone_number=None))
    )
    if customer.phone_number is None:
        return by_lid
    if by_number is None and by_lid is not None and by_lid.phone_number is None:
        by_number = by_lid
    elif by_lid is not None and by_lid is not by_number:
        by_lid.lid = None
    if by_number is not None:
        by_number.phone_number = by_number.phone_number or customer.phone_number
        by_number.lid = customer.lid or by_number.lid
    return by_number


def lock(db: Session, customer: Customer, tenant: Tenant) -> None:
    """Wait for another transaction that notes an event of this customer, until it ends."""
    if db.get_bind().dialect.name != "postgresql":
        return  # SQLite has one writer
    for name in sorted(filter(None, customer)):
        row = f"{tenant.subdomain} {tenant.bot_id} {name}"
        db.execute(insert(CustomerRow).values(name=row).on_conflict_do_nothing())
        db.execute(select(CustomerRow).where(CustomerRow.name == row).with_for_update())


def completed(db: Session, customer: Customer, tenant: Tenant) -> Customer:
    """The customer with the number that an earlier conversation of the LID had with this tenant."""
    if customer.phone_number is not None or customer.lid is None:
        return customer
    earlier = newest(db, customer, belongs_to(tenant), Where(_HAS_NUMBER))
    return customer if earlier is None else Customer(earlier.phone_number, customer.lid)
