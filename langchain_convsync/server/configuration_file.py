"""The form of a server's configuration file: its tables and keys, each with an example."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class SessionTable(_Table):
    """Who a WAHA session belongs to."""

    subdomain: str = Field(examples=['subdomain = "restaurant-abc"'])
    bot_id: str = Field(examples=['bot_id = "bot123"'])


class KeyTable(_Table):
    """An API key: hashed here, or in an environment variable."""

    name: str = Field(examples=['name = "agent-abc"'])
    tenants: list[str] | Literal["*"] = Field(
        examples=['tenants = ["restaurant-abc"], or tenants = "*" for all']
    )
    sha256: str | None = Field(None, examples=['sha256 = "…", the hash in 64 hex digits'])
    env: str | None = Field(None, examples=['env = "AGENT_ABC_KEY"'])


class JwtTable(_Table):
    """What a JWT must be like."""

    algorithm: Literal["HS256", "RS256", "ES256"] = Field("HS256", examples=['algorithm = "HS256"'])
    secret_env: str | None = Field(None, examples=['secret_env = "JWT_SECRET"'])
    public_key_file: str | None = Field(None, examples=['public_key_file = "public.pem"'])
    issuer: str | None = Field(None, examples=['issuer = "https://login.example.com"'])
    audience: str | None = Field(None, examples=['audience = "convsync"'])


class LimitsTable(_Table):
    """How often each caller may call."""

    per_minute: int = Field(examples=["per_minute = 600"])
    burst: int | None = Field(None, examples=["burst = 60"])


class WahaTable(_Table):
    """What WAHA signs its events with."""

    secret_env: str | list[str] = Field(examples=['secret_env = "WAHA_SECRET"'])


class ForwardTable(_Table):
    """The agent's webhook."""

    url: str = Field(examples=['url = "https://my-agent.example.com/webhook"'])
    secret_env: str = Field(examples=['secret_env = "FORWARD_SECRET"'])
    timeout: float | int = Field(5.0, gt=0, examples=["timeout = 5.0"])


class ServerFile(_Table):
    """The whole file; every key may be left out."""

    host: str | None = Field(None, examples=['host = "127.0.0.1"'])
    port: Annotated[int, Field(ge=0, le=65535)] | None = Field(None, examples=["port = 8000"])
    database_url: str | None = Field(None, examples=['database_url = "sqlite:///conversations.db"'])
    database_url_env: str | None = Field(None, examples=['database_url_env = "DATABASE_URL"'])
    quirks: list[str] = Field(default_factory=list, examples=['quirks = ["observed"]'])
    trusted_proxies: list[str] = Field(
        default_factory=list, examples=['trusted_proxies = ["127.0.0.1"]']
    )
    answer_cap: Annotated[int, Field(ge=1)] | None = Field(None, examples=["answer_cap = 20"])
    sessions: dict[str, SessionTable] = Field(default_factory=dict, examples=["[sessions.default]"])
    waha: WahaTable | None = Field(None, examples=["[waha]"])
    keys: list[KeyTable] = Field(default_factory=list, examples=["[[keys]]"])
    jwt: JwtTable | None = Field(None, examples=["[jwt]"])
    limits: LimitsTable | None = Field(None, examples=["[limits]"])
    forward: ForwardTable | None = Field(None, examples=["[forward]"])


def complaint(error: ValidationError) -> str:
    """Which key is wrong, why, and what to write instead; not its value, which may be a secret."""
    flaws = error.errors(include_input=False, include_url=False)
    # A key that there is not explains one that is missing.
    flaw = next((each for each in flaws if each["type"] == "extra_forbidden"), flaws[0])
    place, example = "", ""
    table: type[BaseModel] | None = ServerFile
    for part in flaw["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif table is not None:  # else it names no key, but what its value was read as
            place += f".{part}" if place else part
            if (found := table.model_fields.get(part)) is not None:
                example, table = (found.examples or [""])[0], _table_in(found.annotation)
    if flaw["type"] == "extra_forbidden" and table is not None:
        return f"{place}: there is no such key here; there are {', '.join(table.model_fields)}"
    problem = "is missing" if flaw["type"] == "missing" else flaw["msg"]
    return f"{place}: {problem}; write for example {example}"


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_table_in(each) for each in getattr(annotation, "__args__", ()))
    return next((each for each in inner if each is not None), None)
