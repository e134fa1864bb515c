"""Whose conversation it is: phone numbers in every spelling, and LIDs that have no number yet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, false, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from langchain_convsync import phone
from langchain_convsync._checked import checked
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server.access import Caller
from langchain_convsync.server.tables import ConversationRow, CustomerRow

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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
    """Who writes: an E.164 phone number, a ``…@lid``, or both."""

    phone_number: str | None
    lid: str | None

    @classmethod
    def of(cls, name: str) -> Customer:
        """The customer that a phone number in any spelling, or a chat id, names; else none."""
        return cls(phone.phone_of(name), phone.lid_of(name))

    def matches(self) -> ColumnElement[bool]:
        """True for the rows of this customer."""
        if self.phone_number is not None:
            return ConversationRow.phone_number.in_(phone.variants(self.phone_number))
        return ConversationRow.lid == self.lid if self.lid is not None else false()


def newest(db: Session, customer: Customer, *where: ColumnElement[bool]) -> ConversationRow | None:
    """The customer's conversation: the exact number's first, then the last active one."""
    order: list[ColumnElement[Any]]
    order = [ConversationRow.last_activity.desc(), ConversationRow.id.desc()]
    if customer.phone_number is not None:
        order.insert(0, (ConversationRow.phone_number == customer.phone_number).desc())
    return db.scalar(
        select(ConversationRow).where(customer.matches(), *where).order_by(*order).limit(1)
    )


def is_open(at: datetime) -> ColumnElement[bool]:
    """True for conversations that are neither closed nor expired."""
    return and_(ConversationRow.is_active, ConversationRow.expires_at > at)


def exists_for(caller: Caller) -> ColumnElement[bool]:
    """True for the conversations of the caller's tenants: for this caller there are no others."""
    if caller.tenants is None:
        return true()
    return ConversationRow.subdomain.in_(caller.tenants)


def belongs_to(tenant: Tenant) -> ColumnElement[bool]:
    """True for the tenant's conversations with this bot."""
    return and_(
        ConversationRow.subdomain == tenant.subdomain, ConversationRow.bot_id == tenant.bot_id
    )


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
    has_number = ConversationRow.phone_number.is_not(None)
    earlier = newest(db, customer, belongs_to(tenant), has_number)
    return customer if earlier is None else Customer(earlier.phone_number, customer.lid)
