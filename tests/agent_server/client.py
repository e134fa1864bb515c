"""What a test has of LangGraph's server: graphs to call, and a look at what they sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient


@dataclass
class Graphs:
    """``RemoteGraph``s of one server, and all that they sent to it."""

    url: str
    sent: list[str] = field(default_factory=list)
    _made: list[RemoteGraph] = field(default_factory=list)

    def __call__(self, name: str, kind: type[RemoteGraph] = RemoteGraph, **given: Any) -> Any:
        graph = kind(name, url=self.url, **given)
        _client(graph.sync_client).event_hooks["request"].append(self._see)
        _client(graph.client).event_hooks["request"].append(self._await)
        self.close_later(graph)
        return graph

    def close_later(self, graph: RemoteGraph) -> None:
        """Close what a graph has opened, in the end."""
        self._made.append(graph)

    def _see(self, request: httpx.Request) -> None:
        self.sent.append(f"{request.url} {request.headers} {request.content!r}")

    async def _await(self, request: httpx.Request) -> None:
        self._see(request)

    async def close(self) -> None:
        for graph in self._made:
            _client(graph.sync_client).close()
            await _client(graph.client).aclose()


def _client(of: LangGraphClient | SyncLangGraphClient | None) -> Any:
    assert of is not None
    return of.http.client
