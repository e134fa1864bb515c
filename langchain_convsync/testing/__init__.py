"""What tests and notebooks need: an API server to talk to, and a chat model that costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_convsync.testing._model import ScriptedChatModel
    from langchain_convsync.testing._server import ReferenceServer, SeenRequest

__all__ = ["ReferenceServer", "ScriptedChatModel", "SeenRequest"]

_HOMES = {"ReferenceServer": "_server", "SeenRequest": "_server", "ScriptedChatModel": "_model"}


def __dir__() -> list[str]:
    return __all__


# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Each name loads its own module only: the model works without the server's extra.
        if name in _HOMES:
            return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
