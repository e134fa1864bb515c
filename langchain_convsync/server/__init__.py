"""The reference API server: the documented API on FastAPI and SQLAlchemy, in one process.

For development, tests and demonstrations; nothing else of this package depends on it.
"""

from langchain_convsync.errors import MissingExtraError

try:
    import langchain_convsync.server.serving  # noqa: F401 - uvicorn is of the same extra
    from langchain_convsync.server.access import ApiKey
    from langchain_convsync.server.api import create_reference_api
    from langchain_convsync.server.customers import Tenant
    from langchain_convsync.server.forwarder import Forwarding
    from langchain_convsync.server.jwts import JwtRules
    from langchain_convsync.server.limits import RateLimit
    from langchain_convsync.server.quirks import OBSERVED, QUIRKS
except ModuleNotFoundError as error:
    if (error.name or "").startswith("langchain_convsync"):
        raise
    raise MissingExtraError("The reference server", "server") from error

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
