"""(l) What is done in a store with very many conversations, compared with one that has few."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis

from langchain_convsync import RedisEventStore, SQLiteEventStore
from langchain_convsync._flow import monotonic
from langchain_convsync._platform import token
from langchain_convsync.stores import EventStore
from langchain_convsync.stores.base import RETENTION, Acquired, Commit, NewEvent
from tests.benchmarks.filled import TALK, Filled, fill_redis, fill_sqlite, let_run_out
from tests.benchmarks.ours import StoreKind
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes
from tests.redis_server import RedisServer

#: Conversations of the store that stands for an empty one: they have a past, so the work is alike.
FEW = 1000
#: Of how many accounts they are.
ACCOUNTS = 50
#: The part that runs out at one time, as where nothing was done for so long.
RUNS_OUT = 10
#: Bytes of a finished turn, as it is kept for a week.
MOST = {"redis": 400, "sqlite": 500}
#: What an event of WhatsApp tells of both sides, and what a turn says about it.
FACTS = "n=05937f6ff58f96a9 p=1c43c70e400b307c s=7d69e6d946eb2c38 t=e124883b4ecfa924"
PAYLOAD = (
    '{"event_id": "false_51900000001@c.us_3EB0", "text": "Quiero una pizza grande, por favor"}'
)
SAID = '{"status": "answered", "reply": "Con gusto."}'

#: Takes a step and how often it is done; what it took in microseconds.
Watch = Callable[[Callable[[], object], int], Sample]


@dataclass(frozen=True, slots=True)
class Full:
    """A store that is full.

    Attributes:
        who: How full it is.
        kind: Of which kind.
        opened: Opens it.
        late: Opens it when a part of what fills it has run out.
        filled: What fills it.
        watch: Tells what a step takes.
    """

    who: str
    kind: StoreKind
    opened: Callable[[], EventStore]
    late: Callable[[], EventStore]
    filled: Filled
    watch: Watch


def _new_event(conversation: str) -> NewEvent:
    """A message that the store has not met, of a customer who has written before."""
    account = conversation.rpartition(".")[0]
    return NewEvent(
        event_key=f"{account}.{token(12)}",
        conversation_key=conversation,
        digest=f"t={token(8)}",
        payload=PAYLOAD,
        source=token(12),
        facts=FACTS,
    )


def _steps(store: EventStore, full: Full, count: int) -> dict[str, Callable[[], object]]:
    """What is done so often each, in this order."""
    some = random.sample(range(full.filled.conversations // 2, full.filled.conversations), count)
    events = iter([_new_event(full.filled.conversation(number)) for number in some])
    held: list[Acquired] = []

    def acquire() -> None:
        acquired = store.acquire("inbox", token()).block()
        assert acquired is not None
        held.append(acquired)

    def commit() -> None:
        acquired = held.pop()
        [event] = acquired.events
        fact = f"answered {event.event_key}"
        done = Commit(event_keys=[event.event_key], outcomes={event.event_key: SAID}, fact=fact)
        assert store.commit_turn(acquired.lease, done).block() == "done"

    def status() -> None:
        store.backlog().block()
        store.loads().block()

    return {
        "accept": lambda: store.accept(next(events)).block(),
        "acquire": acquire,
        "commit": commit,
        "status": status,
    }


def _watched_by_redis(client: redis.Redis, step: Callable[[], object], count: int) -> Sample:
    """The work is what the server's slow log tells: it begins with those of no time at all."""
    client.config_set("slowlog-max-len", 4 * count)
    client.config_set("slowlog-log-slower-than", 0)
    client.slowlog_reset()
    times = _timed(step, count)
    client.config_set("slowlog-log-slower-than", -1)
    told: dict[bytes, list[int]] = defaultdict(list)
    for entry in client.slowlog_get(4 * count):
        words = entry["command"].split(b" ", 2)
        if words[0] == b"EVALSHA":
            told[words[1]].append(entry["duration"])
    work = sum(statistics.median(each) for each in told.values())
    return {"work": work, "median": statistics.median(times), "longest": max(times)}


def _watched_by_clock(step: Callable[[], object], count: int) -> Sample:
    """The work is the processor's time of this process, in which SQLite runs."""
    times, works = [], []
    for _ in range(count):
        work = time.process_time()
        times += _timed(step, 1)
        works.append((time.process_time() - work) * 1e6)
    middle = statistics.median
    return {"work": middle(works), "median": middle(times), "longest": max(times)}


def _timed(step: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        step()
        times.append((time.perf_counter() - begun) * 1e6)
    return times


def costs(full: Full, count: int) -> Mapping[str, Sample]:
    """What each step takes in a store, and opening it."""
    begun, work = time.perf_counter(), time.process_time()
    with closing(full.opened()) as store:
        store.backlog().block()
        opening = (time.perf_counter() - begun) * 1e6
        spent = {"work": (time.process_time() - work) * 1e6, "median": opening, "longest": opening}
        found = {name: full.watch(step, count) for name, step in _steps(store, full, count).items()}
    return {f"{full.kind}: {name}": each for name, each in {"open": spent, **found}.items()}


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """A store with the turns of a week, and one with next to none, in turns."""
    units = dict.fromkeys(("work", "median", "longest"), "µs")
    sheet = Sheet(
        "l", f"{sizes.conversations:,} conversations of {TALK} turns", units, name_of(FEW)
    )
    with ExitStack() as stack, tempfile.TemporaryDirectory(dir=place.folder) as folder:
        fulls = [
            full(place, Path(folder), stack, conversations)
            for full in (_redis, _sqlite)
            for conversations in (FEW, sizes.conversations)
        ]
        jobs = [Job(each.who, partial(costs, each, sizes.steps)) for each in fulls]
        play(sheet, jobs, sizes.rounds, progress)
        for each in fulls:
            if each.filled.conversations > FEW:
                _judge(sheet, each)
                meanwhile = _while_it_runs_out(each, sizes.steps)
                sheet.add(f"{each.kind}: accept, a tenth runs out", each.who, meanwhile)
    return sheet


def name_of(conversations: int) -> str:
    """Which store it is."""
    return f"{conversations:,}"


def _judge(sheet: Sheet, full: Full) -> None:
    for step in ("accept", "acquire", "commit", "status"):
        ratio = sheet.ratio(f"{full.kind}: {step}", full.who)
        sheet.targets.append(Target(f"work of {full.kind}: {step}", ratio, 1.1))
    turn, talk = full.filled.turn, full.filled.talk
    what = f"{full.kind} of a finished turn"
    sheet.targets.append(Target(what, turn, MOST[full.kind], "bytes"))
    sheet.notes.append(f"{full.kind}: {turn:.0f} bytes a turn, and {talk:,.0f} a conversation")


def _redis(place: Place, _folder: Path, stack: ExitStack, conversations: int) -> Full:
    """On a server of its own, which writes its file once it is full."""
    server = stack.enter_context(RedisServer(aof=False, appendfsync="everysec"))
    filled = fill_redis(place, server.url, ACCOUNTS, conversations // ACCOUNTS)
    client = stack.enter_context(server.client())
    client.config_set("auto-aof-rewrite-percentage", 0)
    client.config_set("appendonly", "yes")
    while client.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.1)
    opened = partial(RedisEventStore, server.url)
    watch = partial(_watched_by_redis, client)
    let = partial(let_run_out, server.url, filled, filled.copies // RUNS_OUT)

    def late() -> EventStore:
        let()
        return opened()

    return Full(name_of(conversations), "redis", opened, late, filled, watch)


def _sqlite(place: Place, folder: Path, _stack: ExitStack, conversations: int) -> Full:
    path = folder / f"{conversations}.db"
    filled = fill_sqlite(place, path, ACCOUNTS, conversations // ACCOUNTS)

    def later() -> float:
        return monotonic() + RETENTION / RUNS_OUT

    opened, late = partial(SQLiteEventStore, path), partial(SQLiteEventStore, path, clock=later)
    return Full(name_of(conversations), "sqlite", opened, late, filled, _watched_by_clock)


def _while_it_runs_out(full: Full, count: int) -> Sample:
    """What an accept takes where a part of everything ran out at once, and is erased."""
    with closing(full.late()) as store:
        store.backlog().block()
        return full.watch(_steps(store, full, count)["accept"], count)
