"""Names and modules that are loaded when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType


def on_first_use(package: str, modules: Mapping[str, tuple[str, ...]]) -> Callable[[str], object]:
    """A package's ``__getattr__``.

    Args:
        package: Its ``__name__``.
        modules: The names of each of its modules; one without names is itself a name.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> object:
        if name in modules and not modules[name]:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        vars(sys.modules[package])[name] = value  # later look-ups do not come here
        return value

    return load


class _OnFirstUse(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # tools that look around ask for these, and use nothing
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(self.__name__), name)


def module_on_first_use(name: str) -> ModuleType:
    """A module to name in annotations: it is imported when they are read at run time.

    So signatures are real (``typing.get_type_hints``, ``inspect.signature(…, eval_str=True)``), and
    a caller of what is annotated does not wait for the module. Type checkers need the import
    itself::

        if TYPE_CHECKING:
            from langchain_convsync import models
        else:
            models = module_on_first_use("langchain_convsync.models")

        def read(event: models.InboundEvent) -> None: ...

    Args:
        name: The module's full name.
    """
    return _OnFirstUse(name)
