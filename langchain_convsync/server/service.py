"""What the routes work with: one store, and who WAHA's sessions belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, TypeAlias

from fastapi import Depends, Request
from pydantic import SecretStr

from langchain_convsync.server.customers import Tenant
from langchain_convsync.server.forwarder import Forwarder
from langchain_convsync.server.guard import OPEN, Guard
from langchain_convsync.server.quirks import DOCUMENTED, Quirks
from langchain_convsync.server.store import ConversationStore
from langchain_convsync.waha.groups import Groups
from langchain_convsync.waha.signature import Signers

WahaSecrets: TypeAlias = str | SecretStr | Sequence[str | SecretStr]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One running server.

    Args:
        store: Its conversations.
        tenants: The tenant and bot of each WAHA session; others are told by their metadata.
        waha_secrets: The HMAC keys of WAHA's events; None accepts unsigned ones.
        quirks: Where it differs from the document; the store has the same.
        guard: Who may call the agents' endpoints, and how often; every caller by default.
        forwarder: Sends what customers wrote on to the agent's webhook; None does not.
        groups: What in groups is for the agent.
    """

    store: ConversationStore
    tenants: Mapping[str, Tenant]
    waha_secrets: WahaSecrets | None = field(repr=False)
    quirks: Quirks = DOCUMENTED
    guard: Guard = OPEN
    forwarder: Forwarder | None = None
    groups: Groups = False

    @cached_property
    def signers(self) -> Signers | None:
        """Who may sign WAHA's events; None accepts unsigned ones."""
        return None if self.waha_secrets is None else Signers(self.waha_secrets)


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


#: What a route asks for.
CurrentService = Annotated[Service, Depends(_service_of)]
