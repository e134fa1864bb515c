"""Results of users' handlers, and classes that a process may have loaded or not."""

from __future__ import annotations

import dataclasses
import enum
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

#: Calls of constructors and validators.
CALLED: list[str] = []


class Item(BaseModel):
    """A part of an order."""

    name: str = "pizza"


class Order(BaseModel):
    """A structured response."""

    sum: Decimal = Field(default=Decimal(1), alias="total")
    items: list[Item] = []

    model_config = ConfigDict(populate_by_name=True)

    @field_validator("items")
    @classmethod
    def _checked(cls, items: list[Item]) -> list[Item]:
        CALLED.append("validator")
        return items


class Open(BaseModel):
    """Whatever a server tells."""

    id: int
    model_config = ConfigDict(extra="allow")


class Numbers(RootModel[list[int]]):
    """A model that is a list."""


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """What a payment returns."""

    number: int
    of: Order

    def __post_init__(self) -> None:
        CALLED.append("constructor")


class Place(NamedTuple):
    """Where to deliver to."""

    street: str
    number: int


class Step(enum.StrEnum):
    """How far a conversation is."""

    ORDER = "order"


class Rights(enum.Flag):
    """What a customer may do."""

    READ = 1
    PAY = 2


def local_class() -> Any:
    """A class that no other function can name."""

    class Local(BaseModel):
        name: str = "local"

    return Local()
