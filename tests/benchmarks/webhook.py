"""(g) How long a delivery waits for its 2xx, at a fixed rate, over real HTTP."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import psutil

from tests.benchmarks.customers import OtherWorkError
from tests.benchmarks.offering import offer
from tests.benchmarks.ours import STORES
from tests.benchmarks.place import Place, module_process
from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.webhook_app import BARE, SECRET

CUSTOMERS = 200
#: Milliseconds.
LIMIT = 10.0
#: Seconds that no measurement takes: what is accepted is not answered meanwhile.
NOT_YET = 600.0

_messages = itertools.count(1)


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """``create_app`` on both stores, and what people write; then answering at the same time."""
    units = {"p99": "ms", "p50": "ms", "sender's p99": "ms", "cpu": "ms"}
    units |= {"offered": "1/s", "achieved": "1/s"}
    sheet = Sheet("g", "accepting deliveries", units, BARE)
    place.behave()
    recording = f"{sizes.offered}/s"
    jobs = [
        Job(kind, partial(accepting, place, kind, sizes, NOT_YET, recording))
        for kind in (*STORES, BARE)
    ]
    answering = f"{sizes.offered}/s, answering too"
    jobs += [Job(kind, partial(accepting, place, kind, sizes, 0.0, answering)) for kind in STORES]
    play(sheet, jobs, sizes.webhook_rounds, progress)
    for kind in STORES:
        what = f"p99 at {recording}: create_app on {kind}"
        sheet.targets.append(Target(what, sheet.median(recording, kind), LIMIT, "ms"))
    return sheet


def accepting(
    place: Place, kind: str, sizes: Sizes, debounce: float, setting: str
) -> Mapping[str, Sample]:
    """Offer events to an app on a store of this kind, or to the bare one."""
    count = round(sizes.offered * sizes.seconds)
    warm, requests = _deliveries(20), _deliveries(count)
    with (
        place.apart() as own,
        module_process("tests.benchmarks.webhook_app", kind, *own.told(), str(debounce)) as ready,
    ):
        port, pid = map(int, ready.split())
        asyncio.run(offer(port, warm, rate=50))
        before = _cpu(pid)
        answers = asyncio.run(offer(port, requests, rate=sizes.offered))
        cpu = _cpu(pid) - before
    said = Counter(zip(answers.statuses, answers.bodies, strict=True))
    if said != {(200, b'{"status":"queued"}'): count}:
        message = f"not every delivery was recorded: {said}"
        raise OtherWorkError(message)
    sample = {
        "p99": _percentile(answers.late, 99),
        "p50": _percentile(answers.late, 50),
        "sender's p99": _percentile(answers.behind, 99),
        "cpu": cpu / count * 1000,
    }
    sample |= {"offered": float(sizes.offered), "achieved": count / answers.seconds}
    return {setting: sample}


def _cpu(pid: int) -> float:
    """Seconds of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _percentile(seconds: Sequence[float], which: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[which - 1] * 1000


def _deliveries(count: int) -> list[bytes]:
    """Signed requests; every message is new, its customers take turns."""
    return [_request(next(_messages)) for _ in range(count)]


def _request(number: int) -> bytes:
    chat = f"519{number % CUSTOMERS:08d}@c.us"
    payload = {
        "id": f"false_{chat}_3A{number:018X}",
        "timestamp": int(time.time()),  # what is older than a store remembers is not new
        "from": chat,
        "fromMe": False,
        "source": "app",
        "body": f"Mensaje {number}: quiero una pizza grande, por favor",
        "hasMedia": False,
        "ack": 1,
        "vCards": [],
        "_data": {"Info": {"PushName": "Cliente", "Type": "text", "IsGroup": False}},
    }
    event = {
        "id": f"evt_{number:026d}",
        "timestamp": int(time.time() * 1000),
        "event": "message",
        "session": "default",
        "metadata": {},
        "me": {"id": "558580000001@c.us", "pushName": "Negocio"},
        "payload": payload,
        "engine": "GOWS",
        "environment": {"tier": "PLUS", "version": "2026.1.1"},
    }
    raw = json.dumps(event).encode()
    signature = hmac.digest(SECRET.encode(), raw, "sha512").hex()
    head = (
        "POST /webhook HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\n"
        f"X-Webhook-Hmac: {signature}\r\nX-Webhook-Hmac-Algorithm: sha512\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw
