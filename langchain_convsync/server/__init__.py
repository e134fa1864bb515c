"""The reference API server: the documented API on FastAPI and SQLAlchemy, in one process.

For development, tests and demonstrations; nothing else of this package depends on it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from langchain_convsync._lazy import on_first_use
from langchain_convsync.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_convsync.server.access import ApiKey
    from langchain_convsync.server.api import create_reference_api
    from langchain_convsync.server.customers import Tenant
    from langchain_convsync.server.forwarder import Forwarding
    from langchain_convsync.server.jwts import JwtRules
    from langchain_convsync.server.limits import RateLimit
    from langchain_convsync.server.quirks import OBSERVED, QUIRKS

__all__ = [
    "OBSERVED",
    "QUIRKS",
    "ApiKey",
    "Forwarding",
    "JwtRules",
    "RateLimit",
    "Tenant",
    "create_reference_api",
]

# Looked for, and not loaded: whoever puts another application on a socket waits for uvicorn alone.
try:
    _found = [find_spec(name) for name in ("fastapi", "uvicorn", "sqlalchemy", "jwt")]
except ModuleNotFoundError as error:  # an importer that says so itself
    raise MissingExtraError("The reference server", "server") from error
if None in _found:
    raise MissingExtraError("The reference server", "server")

_MODULES = {
    "access": ("ApiKey",),
    "api": ("create_reference_api",),
    "customers": ("Tenant",),
    "forwarder": ("Forwarding",),
    "jwts": ("JwtRules",),
    "limits": ("RateLimit",),
    "quirks": ("OBSERVED", "QUIRKS"),
}


def __dir__() -> list[str]:
    return __all__


# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)
