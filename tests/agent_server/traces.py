"""Where LangSmith's traces go, on loopback: everything that a server exports about its runs."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.listening import listening


@dataclass
class Traces:
    """What was exported so far."""

    text: str = ""
    url: str = ""
    _grown: threading.Condition = field(default_factory=threading.Condition)

    def once_told(self, of: str) -> str:
        """All that was exported, as soon as it tells of something."""
        with self._grown:
            assert self._grown.wait_for(lambda: of in self.text, 60), "no trace of it came"
            return self.text

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = zlib.decompress(body, 31)
        with self._grown:
            self.text += body.decode("utf-8", "replace")
            self._grown.notify_all()
        return JSONResponse({})

    async def _info(self, _: Request) -> Response:
        return JSONResponse({"version": "0.10.0"})

    @classmethod
    @contextmanager
    def collected(cls) -> Iterator[Traces]:
        """A collector that listens."""
        traces = cls()
        routes = [
            Route("/info", traces._info),
            Route("/{path:path}", traces._take, methods=["POST", "PATCH"]),
        ]
        with listening(Starlette(routes=routes)) as port:
            traces.url = f"http://127.0.0.1:{port}"
            yield traces

    @property
    def environment(self) -> dict[str, str]:
        """What has a process export to it, uncompressed."""
        return {
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": self.url,
            "LANGSMITH_API_KEY": "none",
            "LANGSMITH_DISABLE_RUN_COMPRESSION": "true",
        }
