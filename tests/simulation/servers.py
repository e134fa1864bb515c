"""Servers in memory, and what may go wrong with a call; the API server: durable, not idempotent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import httpx

from tests.chaos.fake_api import AS_DOCUMENTED, CAP, Manners
from tests.chaos.oracle import Kept
from tests.chaos.script import Talk
from tests.simulation.hub import Simulation

#: What may go wrong with a call. Late is before a write has surely had its time.
Fault: TypeAlias = Literal[
    "refused",
    "cut, not applied",
    "hung, not applied",
    "429",
    "503",
    "applied, then 500",
    "applied, then cut",
    "applied, then half an answer",
    "applied, then a page",
    "applied, hung",
    "applied late",
    "hung, applied late",
]
READ_FAULTS: tuple[Fault, ...] = (
    *("refused", "hung, not applied", "429", "503"),
    *("applied, then cut", "applied, then half an answer", "applied, then a page"),
)
WRITE_FAULTS: tuple[Fault, ...] = (
    *READ_FAULTS,
    *("cut, not applied", "applied, then 500", "applied, hung", "applied late"),
    "hung, applied late",
)
#: Seconds after the end of a request at which it is applied at the latest.
LATE = 8.0


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """What a request is answered with that is not carried out."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Call:
    """A request: the how manieth to which server, and what it does."""

    server: str
    number: int
    method: str
    path: str

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What may go wrong with it."""
        return READ_FAULTS if self.method == "GET" else WRITE_FAULTS


class Server:
    """Answers requests of ``httpx``, unless something goes wrong.

    Args:
        simulation: Where it is.
        goes_wrong: Decides about each call.
        knows_keys: Whether the same ``Idempotency-Key`` gets the same answer, and does nothing.
    """

    name = "server"

    def __init__(
        self,
        simulation: Simulation,
        goes_wrong: Callable[[Call], Fault | None],
        *,
        knows_keys: bool = False,
    ) -> None:
        self.simulation = simulation
        self.goes_wrong = goes_wrong
        self.knows_keys = knows_keys
        self.calls: list[Call] = []
        self.kept: list[Kept] = []
        self._answers: dict[str, httpx.Response] = {}

    def client(self) -> httpx.Client:
        """What reaches it, and nothing else."""
        return httpx.Client(transport=httpx.MockTransport(self._handle), trust_env=False)

    def answer(self, method: str, path: str, query: httpx.QueryParams, body: Any) -> Any:
        """Carry a request out and tell what came of it."""
        raise NotImplementedError

    def _handle(self, request: httpx.Request) -> httpx.Response:
        call = Call(self.name, len(self.calls), request.method, request.url.path)
        self.calls.append(call)
        fault = self.goes_wrong(call)
        if fault is not None:
            self.simulation.note(f"{self.name}: {fault}")
        refusal = self._not_now(request, fault)
        return refusal or self._garbled(request, self._answered(request), fault)

    def _not_now(self, request: httpx.Request, fault: Fault | None) -> httpx.Response | None:
        """What comes of a request that is not carried out, or not now."""
        match fault:
            case "refused":
                raise httpx.ConnectError("")
            case "cut, not applied":
                raise httpx.ReadError("")
            case "hung, not applied":
                self._hang(request)
            case "429":
                return httpx.Response(429, headers={"Retry-After": "1"}, json=_error("busy"))
            case "503":
                return httpx.Response(503, json=_error("maintenance"))
            case "applied late":
                self._later(request)
                raise httpx.ReadError("")
            case "hung, applied late":
                self._later(request, behind=request.extensions["timeout"]["read"])
                self._hang(request)
        return None

    def _garbled(
        self, request: httpx.Request, answer: httpx.Response, fault: Fault | None
    ) -> httpx.Response:
        """What comes of a request that was carried out."""
        match fault:
            case "applied, then 500":
                return httpx.Response(500, json=_error("error"))
            case "applied, then cut":
                raise httpx.ReadError("")
            case "applied, hung":
                self._hang(request)
            case "applied, then half an answer":
                return httpx.Response(answer.status_code, content=answer.content[:-5])
            case "applied, then a page":
                return httpx.Response(200, html="<p>Back soon</p>")
        return answer

    def _hang(self, request: httpx.Request) -> None:
        self.simulation.rest(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("")

    def _later(self, request: httpx.Request, *, behind: float = 0.0) -> None:
        def apply() -> None:
            self.simulation.rest(behind + self.simulation.chance.uniform(0.0, LATE))
            self._answered(request)

        self.simulation.begin(self.simulation.outside, apply, f"{self.name}: late")

    def _answered(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("Idempotency-Key") if self.knows_keys else None
        if key is None:
            return self._carried_out(request)
        if key not in self._answers:
            self._answers[key] = self._carried_out(request)
        return self._answers[key]

    def _carried_out(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        path = unquote(request.url.path)
        try:
            return self.answer(request.method, path, request.url.params, body)  # type: ignore[no-any-return]
        except Refusal as refusal:
            return httpx.Response(refusal.status, json=_error(str(refusal)))


def _error(message: str) -> Any:
    return {"type": "3", "message": message, "data": None}


@dataclass
class _Session:
    talk: Talk
    active: int = 0
    is_over: bool = False
    state: dict[str, Any] = field(
        default_factory=lambda: {
            "currentIntent": "idle",
            "currentStep": "initial",
            "context": {"language": "es"},
            "metadata": {},
        }
    )
    history: list[dict[str, str]] = field(default_factory=list)


class ApiServer(Server):
    """The documented endpoints; ``manners`` tell in what it differs."""

    name = "api"

    def __init__(
        self,
        simulation: Simulation,
        goes_wrong: Callable[[Call], Fault | None],
        talks: Iterable[Talk],
        manners: Manners = AS_DOCUMENTED,
        expires: Callable[[Simulation], str | None] | None = None,
    ) -> None:
        super().__init__(simulation, goes_wrong, knows_keys=manners.keys)
        self.sessions = {talk.session_id: _Session(talk) for talk in talks}
        self.refuses = False
        self._manners = manners
        self._expires = expires or _in_a_day

    def renew(self, talk: Talk) -> None:
        """The customer's session is over; there is a new one, which knows nothing."""
        before = [each for each in self.sessions.values() if each.talk is talk]
        for each in before:
            each.is_over = True
        self.sessions[f"{talk.session_id}-{len(before) + 1}"] = _Session(talk, self._next())

    def answer(self, method: str, path: str, query: httpx.QueryParams, body: Any) -> Any:
        line = f"{method} {path.removeprefix('/api/v1/whatsapp')}"
        if self.refuses and method != "GET":
            raise Refusal(422, "not in this state")
        if found := re.fullmatch(r"GET /lookup/(?:conversation|tenant)/([^/]+)", line):
            return _ok(self._look_up(found[1], query.get("botId")))
        if found := re.fullmatch(r"POST /agent/conversations/([^/]+)/messages", line):
            return _ok(self._add(found[1], body))
        if found := re.fullmatch(r"PUT /agent/conversations/([^/]+)/sync", line):
            return _ok(self._sync(found[1], body))
        raise Refusal(404, "no such route")

    def _look_up(self, customer: str, bot_id: str | None) -> Any:
        found = [
            (each.active, session_id, each.talk)
            for session_id, each in self.sessions.items()
            if customer in {each.talk.phone_number, each.talk.lid}
            and bot_id in {None, each.talk.bot_id}
            and not each.is_over
        ]
        if not found:
            raise Refusal(404, "No active conversation found for this phone number")
        _, session_id, talk = max(found, key=lambda each: each[0])
        told = {"userId": customer, "botId": talk.bot_id, "subDomain": talk.subdomain}
        if (expires := self._expires(self.simulation)) is not None:
            told["expiresAt"] = expires
        return {**self._shown(session_id), **told, "isActive": True}

    def _add(self, session_id: str, body: Any) -> Any:
        session = self._session(session_id)
        if body["role"] not in {"user", "bot"} or not body["content"]:
            raise Refusal(400, "role must be user or bot, and content must not be empty")
        if not self._manners.by_sync:
            self._record(session_id, {**body, "timestamp": self._now()})
            return self._shown(session_id)
        shown = self._shown(session_id)
        shown["context"]["previousMessages"].append({**body, "timestamp": self._now()})
        session.active = self._next()
        return shown

    def _sync(self, session_id: str, body: Any) -> Any:
        session, context = self._session(session_id), dict(body.get("context", {}))
        history = context.pop("previousMessages", None)
        context.pop("lastUserMessage", None)
        if history is not None and self._manners.by_sync:
            self._rewrite(session_id, history)
        if context or self._manners.replace:
            kept = {} if self._manners.replace else session.state["context"]
            session.state["context"] = {**kept, **context}
        session.state["metadata"] = {**session.state["metadata"], **body.get("metadata", {})}
        for given, name in (("intent", "currentIntent"), ("step", "currentStep")):
            if given in body:
                session.state[name] = body[given]
        if "intent" in body:
            self._keep(session_id, "sync", str(context.get("reply")))
        return self._shown(session_id)

    def _rewrite(self, session_id: str, history: list[dict[str, str]]) -> None:
        """Whatever was shown and does not go on in the new history is gone."""
        session = self._session(session_id)
        shown = session.history[-CAP:]
        same = next((n for n in range(len(shown), 0, -1) if shown[-n:] == history[:n]), 0)
        if not same and shown:
            texts = [f"{each['role']} {each['content']}" for each in shown]
            for text in reversed(texts):
                self._forget(session_id, text)
            del session.history[-CAP:]
        for message in history[same:]:
            self._record(session_id, message)

    def _forget(self, session_id: str, text: str) -> None:
        for place in reversed(range(len(self.kept))):
            if self.kept[place] == Kept(session_id, "message", text):
                del self.kept[place]
                return

    def _record(self, session_id: str, message: dict[str, str]) -> None:
        self._session(session_id).history.append(message)
        self._keep(session_id, "message", f"{message['role']} {message['content']}")

    def _keep(self, session_id: str, kind: Literal["message", "sync"], text: str) -> None:
        self.simulation.note(f"api: {session_id} {kind} {text}")
        self._session(session_id).active = self._next()
        self.kept.append(Kept(session_id, kind, text))

    def _next(self) -> int:
        return len(self.calls)

    def _session(self, session_id: str) -> _Session:
        session = self.sessions.get(session_id)
        if session is None or session.is_over:
            raise Refusal(404, "no such session")
        return session

    def _now(self) -> str:
        return self.simulation.now().isoformat(timespec="milliseconds")

    def _shown(self, session_id: str) -> Any:
        """The conversation as the server shows it: of its history, the end."""
        session = self.sessions[session_id]
        context = {**session.state["context"], "previousMessages": session.history[-CAP:]}
        return {**session.state, "sessionId": session_id, "context": context}


def _in_a_day(simulation: Simulation) -> str:
    return (simulation.now() + timedelta(hours=24)).isoformat()


def _ok(data: Any) -> httpx.Response:
    return httpx.Response(200, json={"type": "1", "message": "ok", "data": data})
