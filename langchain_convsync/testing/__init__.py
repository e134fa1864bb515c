"""What tests and notebooks need: an API server, a WAHA, and a chat model that costs nothing.

Fixtures for pytest are in :mod:`langchain_convsync.testing.pytest_plugin`, which a project
has to name; nothing loads it by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync._lazy import on_first_use

if TYPE_CHECKING:
    from langchain_convsync.testing._model import ScriptedChatModel
    from langchain_convsync.testing._server import RecordedRequest, ReferenceServer
    from langchain_convsync.testing._waha import Delivery, FakeWAHA, SentText

__all__ = [
    "Delivery",
    "FakeWAHA",
    "RecordedRequest",
    "ReferenceServer",
    "ScriptedChatModel",
    "SentText",
]

#: Each name loads its own module only: model and WAHA work without the server's extra.
_MODULES = {
    "_model": ("ScriptedChatModel",),
    "_server": ("ReferenceServer", "RecordedRequest"),
    "_waha": ("Delivery", "FakeWAHA", "SentText"),
}


def __dir__() -> list[str]:
    return __all__


# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)
