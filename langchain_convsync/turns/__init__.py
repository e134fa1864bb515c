"""Turns: an inbound event in, a reply out, everything in between recorded until it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync._lazy import on_first_use

if TYPE_CHECKING:
    from langchain_convsync.turns.handoffs import HandedOver
    from langchain_convsync.turns.interrupts import Interrupt
    from langchain_convsync.turns.runner import TurnRunner
    from langchain_convsync.turns.turn import Turn

__all__ = ["HandedOver", "Interrupt", "Turn", "TurnRunner"]

_MODULES = {
    "handoffs": ("HandedOver",),
    "interrupts": ("Interrupt",),
    "runner": ("TurnRunner",),
    "turn": ("Turn",),
}

# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)
