"""Turns: an inbound event in, a reply out, everything in between recorded until it is done."""

from langchain_convsync.turns.runner import TurnRunner
from langchain_convsync.turns.turn import Turn

__all__ = ["Turn", "TurnRunner"]
