"""What must be true of every key, or row, that a store leaves behind."""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from typing import Any, TypeAlias

from langchain_convsync.stores.base import Lane, is_claim

QUEUES: dict[Lane, str] = {"turn": "in", "write": "out", "say": "say"}
Client: TypeAlias = Any  # redis-py's answers are annotated for both colours at once
KEY = re.compile(
    r"cs:\{s(?P<shard>[0-9]{2})\}:"
    r"(?P<kind>ev|c|alias|pause|token|ready|running|accounts|places|count|dead|parked)(:(?P<rest>.*))?"
)


def check_keys(client: Client) -> None:
    """Finished records expire and hold no payload, live ones do not expire; the indexes agree."""
    keys = {key.decode(): client.pttl(key) for key in client.scan_iter(count=1000)}
    keys.pop("cs:meta", None)
    found = {key: KEY.fullmatch(key) for key in keys}
    assert all(found.values()), "unknown keys: " + str([k for k, m in found.items() if not m])
    for key, match in found.items():
        assert match is not None
        if (rest := match["rest"]) and match["kind"] in {"ev", "c", "alias", "pause"}:
            assert rest[:2] == match["shard"], f"{key} lies in a foreign shard"
        _check_life(client, key, match["kind"], keys)
    for key in keys:
        if ":ev:" in key and client.hget(key, "state") == b"queued":
            _check_one_place(client, key)
        if re.fullmatch(r"cs:\{s..\}:c:[^:]*", key):
            _check_ready(client, key)
    for shard in {key[:9] for key in keys}:
        _check_counts(client, shard, keys)
        for lane in QUEUES:  # accounts without work leave nothing behind
            places = set(client.hkeys(f"{shard}places:{lane}"))
            assert places <= set(client.zrange(f"{shard}accounts:{lane}", 0, -1))


def _check_life(client: Client, key: str, kind: str, keys: dict[str, Any]) -> None:
    forever = keys[key] == -1
    match kind:
        case "ev":
            state = client.hget(key, "state")
            assert forever == (state in {b"queued", b"dead"}), (
                f"{key} is {state!r}, TTL {keys[key]}"
            )
            assert client.hexists(key, "payload") == forever, f"{key} is {state!r}, payload?"
        case "alias" | "pause" | "token":
            assert not forever, f"{key} lives forever"
        case "c" if key.endswith(":snap"):
            assert not forever, f"{key} lives forever"
        case "c" if key.count(":") == 3:
            assert forever == _is_busy(client, key), f"{key} has TTL {keys[key]}"
        case _:
            assert forever, f"{key} expires"


def _is_busy(client: Client, conversation: str) -> bool:
    return any(client.exists(f"{conversation}:{queue}") for queue in QUEUES.values())


def _check_one_place(client: Client, key: str) -> None:
    shard, eid = key[:9], key[12:]
    cid = client.hget(key, "cid")
    assert cid is not None
    inbox = client.lrange(f"{shard}c:{cid.decode()}:in", 0, -1)
    assert inbox.count(eid.encode()) == 1, f"{eid} is {inbox.count(eid.encode())} times in an inbox"


def _check_ready(client: Client, conversation: str) -> None:
    """A lane is in the index exactly while it has work, at the time at which it can be taken."""
    shard, cid = conversation[:9], conversation[11:]
    has = {name.decode(): value for name, value in client.hgetall(conversation).items()}
    for lane, queue in QUEUES.items():
        work = client.lrange(f"{conversation}:{queue}", 0, -1)
        due = max(int(has.get(f"{lane}.{name}", 0)) for name in ("until", "not_before"))
        if lane == "turn" and work:
            ends = [int(client.hget(f"{shard}ev:{work[n].decode()}", "at")) for n in (0, -1)]
            due = max(due, min(ends[0] + int(has["max_quiet"]), ends[1] + int(has["quiet"])))
        indexed = client.zscore(f"{shard}ready:{lane}:{cid[:15]}", cid)
        assert indexed == (due if work else None), f"{lane} of {cid}"
        if lane == "turn":
            running = client.zscore(f"{shard}running:{cid[:15]}", cid)
            assert running == (int(has["turn.until"]) if "turn.until" in has else None)
        assert not work or client.zscore(f"{shard}accounts:{lane}", cid[:15]) is not None


def _check_counts(client: Client, shard: str, keys: dict[str, Any]) -> None:
    def total(queue: str, width: int) -> int:
        names = [k for k in keys if k.startswith(f"{shard}c:") and k.endswith(f":{queue}")]
        elements: int = sum(client.llen(name) for name in names)
        return elements // width

    counted = {name.decode(): int(n) for name, n in client.hgetall(f"{shard}count").items()}
    expected = {
        "queued": total("in", 1),
        "writes": total("out", 2),
        "says": total("say", 2),
        "parked": total("parked", 9),
    }
    assert {name: counted.get(name, 0) for name in expected} == expected
    _check_parked(client, shard, keys)


def _check_parked(client: Client, shard: str, keys: dict[str, Any]) -> None:
    """The index names every conversation with parked operations, at the time of the oldest."""
    lists = [key for key in keys if key.startswith(f"{shard}c:") and key.endswith(":parked")]
    oldest = {key[11:-7].encode(): float(client.lindex(key, 4)) for key in lists}
    assert dict(client.zrange(f"{shard}parked", 0, -1, withscores=True)) == oldest


def check_rows(sql: sqlite3.Connection) -> None:
    """The same of an SQLite store; every account with due work is in the ring, and no other."""
    queues: dict[tuple[str, Lane], list[int]] = defaultdict(list)
    for event in _rows(sql, "events ORDER BY seq"):
        finished = event["state"] == "done"
        assert (event["expires"] is not None) == finished == (event["payload"] is None), event
        if event["state"] == "queued":
            queues[event["cid"], "turn"].append(event["accepted_at"])
    for op in _rows(sql, "ops"):
        queues[op["cid"], op["lane"]].append(0)
    talks = {talk["cid"]: talk for talk in _rows(sql, "conversations")}
    for cid, talk in talks.items():
        assert (talk["expires"] is None) == any(queues[cid, lane] for lane in QUEUES), talk
    ring = set()
    for lane in _rows(sql, "lanes"):
        work, talk = queues[lane["cid"], lane["lane"]], talks[lane["cid"]]
        due = max(lane["until"] or 0, lane["not_before"])
        if lane["lane"] == "turn" and work:
            due = max(due, min(work[0] + talk["max_quiet"], work[-1] + talk["quiet"]))
        assert lane["due"] == (due if work else None), lane
        if work and not is_claim(lane["cid"]):
            ring.add((lane["lane"], lane["account"]))
    assert {(row["lane"], row["account"]) for row in _rows(sql, "accounts")} == ring


def _rows(sql: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    found = sql.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]
