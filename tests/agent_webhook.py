"""An agent's webhook as an HTTP server that answers as a test tells it, and keeps what it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from langchain_convsync import waha

SECRET = "what the webhook checks with"


class AgentWebhook:
    """Takes everything, unless ``answers`` still holds another (status, Retry-After)."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[tuple[int, str]] = []
        self.got: list[dict[str, Any]] = []
        self.signed: list[bool] = []

    @property
    def texts(self) -> list[str]:
        return [body["message"] for body in self.got]


@contextmanager
def agent_webhook() -> Iterator[AgentWebhook]:
    """A running one."""
    webhook = AgentWebhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            webhook.signed.append(waha.verify(raw, dict(self.headers), SECRET))
            webhook.got.append(json.loads(raw))
            status, retry_after = webhook.answers.pop(0) if webhook.answers else (200, "")
            self.send_response(status)
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    webhook.url = f"http://127.0.0.1:{server.server_port}/webhook"
    try:
        yield webhook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
