"""The API server of the benchmarks: documented answers, next to no work, and a delay to choose.

A process of its own, ``python -m tests.benchmarks.fake_api``, that prints its port and ends when
its standard input does. It knows every phone number: a conversation begins when it is first looked
up. Beside the documented endpoints, ``PUT /control`` chooses how it behaves, and ``POST /control``
tells what was written for some customers.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.benchmarks.wire import taken_from

PREFIX = "/api/v1/whatsapp"
AT = "2026-01-01T10:00:00.000Z"
LATER = "2036-01-01T10:00:00.000Z"  # no benchmark takes longer


@dataclass(slots=True)
class Manners:
    """How it behaves.

    Attributes:
        delay: Seconds between a request and its answer.
        cap: Messages of a history that it shows; 0 shows all.
        begun: Messages that a new conversation has already.
    """

    delay: float = 0.0
    cap: int = 20
    begun: int = 20


@dataclass(slots=True)
class Conversation:
    """One conversation; its history is kept as JSON, so that showing it costs next to nothing."""

    phone_number: str
    begun: int
    history: list[str] = field(default_factory=list)
    written: list[tuple[str, str]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    syncs: int = 0

    def add(self, role: str, content: str) -> None:
        message = {"role": role, "content": content, "timestamp": AT}
        self.history.append(json.dumps(message, ensure_ascii=False))


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A request that is refused with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Api:
    """The documented server, as far as a turn needs it."""

    def __init__(self) -> None:
        self.manners = Manners()
        self._conversations: dict[str, Conversation] = {}

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, str]:
        """Status and body of the answer to a request."""
        path = target.partition("?")[0].removeprefix(PREFIX)
        try:
            data = self._routed(method, path.strip("/").split("/"), body)
        except Refusal as refusal:
            return refusal.status, '{"type":"3","message":"refused","data":null}'
        return 200, f'{{"type":"1","message":"ok","data":{data}}}'

    def _routed(self, method: str, parts: list[str], body: bytes) -> str:
        match method, parts:
            case "GET", ["lookup", "tenant", phone]:
                return self._tenant(unquote(phone))
            case "GET", ["lookup", "conversation", phone]:
                return self._shown(self._of(unquote(phone)), whole=True)
            case "POST", ["agent", "conversations", session, "messages"]:
                return self._add(unquote(session), json.loads(body))
            case "PUT", ["agent", "conversations", session, "sync"]:
                return self._sync(unquote(session), json.loads(body))
            case "PUT", ["control"]:
                self.manners = Manners(**json.loads(body))
                return "null"
            case "POST", ["control"]:
                return self._ledger(json.loads(body))
        raise Refusal(404)

    def _of(self, phone_number: str) -> Conversation:
        found = self._conversations.get(phone_number)
        if found is None:
            found = Conversation(phone_number, self.manners.begun)
            for number in range(self.manners.begun):
                found.add("bot" if number % 2 else "user", f"Mensaje anterior {number}")
            self._conversations[phone_number] = found
        return found

    def _in(self, session: str) -> Conversation:
        found = self._conversations.get(f"+{session.removeprefix('bot1_')}")
        if found is None:
            raise Refusal(404)
        return found

    def _tenant(self, phone_number: str) -> str:
        found = self._of(phone_number)
        return json.dumps(
            {
                "subDomain": "restaurant-abc",
                "botId": "bot1",
                "sessionId": f"bot1_{found.phone_number[1:]}",
                "isActive": True,
            }
        )

    def _shown(self, found: Conversation, *, whole: bool = False) -> str:
        history = ",".join(found.history[-self.manners.cap :])
        context = json.dumps(found.state.get("context", {}), ensure_ascii=False)[1:-1]
        context = f"{context}," if context else ""
        head = {
            "sessionId": f"bot1_{found.phone_number[1:]}",
            "currentIntent": found.state.get("intent", "idle"),
            "currentStep": found.state.get("step", "initial"),
            "metadata": found.state.get("metadata", {}),
            "lastActivity": AT,
        }
        if whole:
            head |= {"userId": found.phone_number, "botId": "bot1", "subDomain": "restaurant-abc"}
            head |= {"isActive": True, "createdAt": AT, "updatedAt": AT, "expiresAt": LATER}
        return f'{json.dumps(head)[:-1]},"context":{{{context}"previousMessages":[{history}]}}}}'

    def _add(self, session: str, body: dict[str, str]) -> str:
        found = self._in(session)
        if body["role"] not in {"user", "bot"} or not body["content"]:
            raise Refusal(400)
        found.add(body["role"], body["content"])
        found.written.append((body["role"], body["content"]))
        return self._shown(found)

    def _sync(self, session: str, body: dict[str, Any]) -> str:
        found = self._in(session)
        for name in ("context", "metadata"):
            body[name] = {**found.state.get(name, {}), **(body.get(name) or {})}
        found.state |= body
        found.syncs += 1
        return self._shown(found)

    def _ledger(self, phone_numbers: list[str]) -> str:
        """What was written for each, and how often it was synced."""
        found = [self._conversations[phone_number] for phone_number in phone_numbers]
        return json.dumps([[each.written, each.state, each.syncs] for each in found])


class Http(asyncio.Protocol):
    """One connection."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._got = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        if (whole := taken_from(self._got)) is not None:
            head, body = whole
            method, target, _ = head.split(" ", 2)
            self._respond(*self._api.answer(method, target, body))

    def _respond(self, status: int, body: str) -> None:
        content = body.encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
        whole = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        if delay := self._api.manners.delay:
            asyncio.get_running_loop().call_later(delay, self._write, whole)
        else:
            self._write(whole)

    def _write(self, whole: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(whole)


async def serve() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    api = Api()
    server = await loop.create_server(lambda: Http(api), "127.0.0.1", 0, backlog=1000)
    gc.freeze()
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
