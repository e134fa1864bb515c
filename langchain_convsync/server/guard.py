"""The door of the agent endpoints: who calls, and how often, before anything of it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.security import HTTPBearer

from langchain_convsync.server.access import UNIDENTIFIED, Caller, Keyring
from langchain_convsync.server.limits import Limiter
from langchain_convsync.server.transport import StrictRoute, refusal

NO_KEY = "A valid API key or token is needed: send it as Authorization: Bearer …"
TOO_OFTEN = "Too many requests: wait as long as Retry-After says"


@dataclass(frozen=True)
class Guard:
    """Decides which callers come in.

    Args:
        keyring: The keys; None lets every caller in.
        limiter: Counts the requests; None does not.
    """

    keyring: Keyring | None = None
    limiter: Limiter | None = None

    def admit(self, authorization: Sequence[str], address: str) -> Caller:
        """Who calls.

        Args:
            authorization: The ``Authorization`` headers.
            address: Where the request comes from: counted for callers without a key, so that
                guessing one is slow.

        Raises:
            HTTPException: 401 or 429.
        """
        caller = UNIDENTIFIED if self.keyring is None else self.keyring.caller_of(authorization)
        known = None if caller is None else caller.id
        name = f"address {address}" if known is None else f"caller {known}"
        wait = 0.0 if self.limiter is None else self.limiter.wait(name)
        if wait:
            raise HTTPException(429, TOO_OFTEN, {"Retry-After": str(math.ceil(wait))})
        if caller is None:
            raise HTTPException(401, NO_KEY, {"WWW-Authenticate": "Bearer"})
        return caller

    @property
    def documentation(self) -> dict[str, Any]:
        """What OpenAPI tells of it, as arguments for ``include_router``."""
        options: dict[str, Any] = {"responses": {}}
        if self.keyring is not None:
            scheme = HTTPBearer(auto_error=False, description="An API key, or a JWT.")
            options["dependencies"] = [Security(scheme)]
            options["responses"][401] = refusal("The key is missing or wrong", "WWW-Authenticate")
        if self.limiter is not None:
            options["responses"][429] = refusal("Too many requests", "Retry-After")
        return options


#: Lets every caller in.
OPEN = Guard()


class GuardedRoute(StrictRoute):
    """A route for those whom the service's guard admits."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind the guard."""
        handle = super().get_route_handler()

        async def handle_guarded(request: Request) -> Response:
            guard: Guard = request.app.state.service.guard
            address = request.client.host if request.client else ""
            request.state.caller = guard.admit(request.headers.getlist("authorization"), address)
            return await handle(request)

        return handle_guarded


async def _caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


#: What a guarded route asks for.
CurrentCaller = Annotated[Caller, Depends(_caller_of)]
