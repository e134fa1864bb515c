"""Less of what went wrong, as long as it still does: what is left can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tests.simulation.random_runs import Misfortunes, with_misfortunes
from tests.simulation.world import Plan, World

T = TypeVar("T")


def shrunk(plan: Plan, what: Misfortunes) -> tuple[Plan, Misfortunes]:
    """A run that is still wrong, with fewer people, and to whom less happens."""

    def fails(talks: Sequence[Any], places: Sequence[Any]) -> bool:
        few = with_misfortunes(replace(plan, talks=talks), _only(what, places))
        return bool(World(few).run().wrong)

    places: list[Any] = [*what.faults, *what.strikes]
    talks = _fewer(list(plan.talks), lambda few: fails(few, places))
    places = _fewer(places, lambda few: fails(talks, few))
    talks = _fewer(talks, lambda few: fails(few, places))
    happens = _only(what, places)
    return with_misfortunes(replace(plan, talks=talks), happens), happens


def _only(what: Misfortunes, places: Sequence[Any]) -> Misfortunes:
    return Misfortunes(
        {place: fault for place, fault in what.faults.items() if place in places},
        {place: strike for place, strike in what.strikes.items() if place in places},
    )


def _fewer(parts: list[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """As few of the parts as it still fails with: halves are left out first, then single ones."""
    size = len(parts)
    while size := size // 2:
        start = 0
        while start < len(parts):
            few = parts[:start] + parts[start + size :]
            if few and fails(few):
                parts = few
            else:
                start += size
    return parts
