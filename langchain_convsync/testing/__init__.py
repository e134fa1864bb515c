"""What tests and notebooks need: an API server to talk to, and a chat model that costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync._lazy import on_first_use

if TYPE_CHECKING:
    from langchain_convsync.testing._model import ScriptedChatModel
    from langchain_convsync.testing._server import ReferenceServer, SeenRequest

__all__ = ["ReferenceServer", "ScriptedChatModel", "SeenRequest"]

#: Each name loads its own module only: the model works without the server's extra.
_MODULES = {"_model": ("ScriptedChatModel",), "_server": ("ReferenceServer", "SeenRequest")}


def __dir__() -> list[str]:
    return __all__


# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)
