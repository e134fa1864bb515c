"""(i) What a request costs the reference server, beside a bare server with the same statements."""

from __future__ import annotations

import http.client
import itertools
import json
import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import psutil

from langchain_convsync.server.customers import Customer
from langchain_convsync.server.store import ConversationStore
from langchain_convsync.server.wire import StateSync
from langchain_convsync.settings import DOCUMENTED_PREFIX
from tests.benchmarks.api_app import BARE, OURS, TENANT
from tests.benchmarks.customers import OtherWorkError
from tests.benchmarks.place import Place, module_process
from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

LENGTHS = (10, 1000)
LIMIT = 2.0
#: Requests before anything is measured.
WARM = 10

_numbers = itertools.count(1)


class Begun(NamedTuple):
    """A conversation in a file."""

    database_url: str
    phone_number: str
    session_id: str


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """Each kind of request, early and late in a conversation, one after the other."""
    units = {"cpu": "ms", "time": "ms"}
    sheet = Sheet("i", "a request to the reference server", units, BARE)
    jobs = [
        Job(kind, partial(asking, place, kind, length, sizes.requests))
        for length in LENGTHS
        for kind in (OURS, BARE)
    ]
    play(sheet, jobs, sizes.rounds, progress)
    for setting, who in sheet.ordered:
        if who == OURS:
            sheet.targets.append(Target(f"CPU: {setting}", sheet.ratio(setting, OURS), LIMIT))
    sheet.notes.append(
        "with a key: the bare server keeps no keys, and does without those statements"
    )
    return sheet


def asking(place: Place, kind: str, length: int, count: int) -> Mapping[str, Sample]:
    """Every kind of request to a server of this kind, on a conversation of that length."""
    found = {}
    for name in ("GET", "PUT", "POST", "POST with a key", "webhook"):
        with place.apart() as own:
            begun = _begun(own, length)
            arguments = (kind, begun.database_url)
            with module_process("tests.benchmarks.api_app", *arguments) as ready:
                port, pid = map(int, ready.split())
                found[f"{name}, {length:,} messages"] = _cost(port, pid, begun, name, count)
    return found


def _begun(place: Place, length: int) -> Begun:
    url, number = f"sqlite:///{place.folder / 'api.db'}", f"+519{next(_numbers):08d}"
    messages = [
        {"role": "bot" if n % 2 else "user", "content": f"Mensaje {n}: una pizza, por favor"}
        for n in range(length)
    ]
    store = ConversationStore(url)
    state = StateSync.model_validate({"context": {"previousMessages": messages}})
    created = store.create(Customer.of(number), TENANT, state)
    store.close()
    return Begun(url, number, created["sessionId"])


def _cost(port: int, pid: int, begun: Begun, name: str, count: int) -> Sample:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        for number in range(WARM):
            _ask(connection, *_request(begun, name, -1 - number))
        process, took = psutil.Process(pid), []
        before = process.cpu_times()
        for number in range(count):
            began = time.perf_counter()
            _ask(connection, *_request(begun, name, number))
            took.append(time.perf_counter() - began)
        after = process.cpu_times()
    finally:
        connection.close()
    cpu = after.user + after.system - before.user - before.system
    return {"cpu": cpu / count * 1000, "time": statistics.median(took) * 1000}


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    headers: dict[str, str],
) -> None:
    raw = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json", **headers} if raw else headers
    connection.request(method, DOCUMENTED_PREFIX + path, raw, headers)
    answer = connection.getresponse()
    if b'"type":' not in answer.read()[:20] or answer.status != 200:
        message = f"{method} was answered with {answer.status}"
        raise OtherWorkError(message)


def _request(
    begun: Begun, name: str, number: int
) -> tuple[str, str, dict[str, Any] | None, dict[str, str]]:
    agent = f"/agent/conversations/{begun.session_id}"
    if name == "GET":
        return "GET", f"/lookup/conversation/{begun.phone_number}", None, {}
    if name == "PUT":
        state = {"intent": f"order {number}", "step": "selecting", "isActive": True}
        more = {"context": {"orderTotal": number}, "metadata": {"n": number}}
        return "PUT", f"{agent}/sync", {**state, **more}, {}
    if name == "webhook":
        chat = f"{begun.phone_number[1:]}@c.us"
        told = {"id": f"false_{chat}_A{number}", "from": chat, "fromMe": False, "body": "Hola"}
        return "POST", "/webhook/waha", _event({**told, "timestamp": 1}), {}
    keyed = {"Idempotency-Key": f"key {number}"} if name != "POST" else {}
    said = {"role": "bot" if number % 2 else "user", "content": f"Perfecto, {number}"}
    return "POST", f"{agent}/messages", said, keyed


def _event(payload: dict[str, Any]) -> dict[str, Any]:
    return {"event": "message", "session": "default", "payload": payload}
