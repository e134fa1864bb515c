"""The workbench: a customer to play, everything that happens visible, faults at a click.

``convsync chat`` and ``convsync dev`` are its two faces; ``convsync replay`` and :class:`Replay`
play recorded talks. Your bot runs in a process of its own, which can really be killed; API server,
WAHA and store are local, and end with the command. Nothing else imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync._lazy import on_first_use

if TYPE_CHECKING:
    from langchain_convsync.workbench.cases import Case, cases_in
    from langchain_convsync.workbench.replaying import Played, Replay

__all__ = ["Case", "Played", "Replay", "cases_in"]

_MODULES = {"cases": ("Case", "cases_in"), "replaying": ("Played", "Replay")}


def __dir__() -> list[str]:
    return __all__


# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)
