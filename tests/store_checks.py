"""What must be true of every key, or row, that a store leaves behind."""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from typing import Any, TypeAlias

from langchain_convsync.stores.base import QueueName, is_claim

QUEUES: tuple[QueueName, ...] = ("inbox", "outbox", "replies")
Client: TypeAlias = Any  # redis-py's answers are annotated for sync and async at once
KEY = re.compile(
    r"cs:\{s(?P<shard>[0-9]{2})\}:"
    r"(?P<kind>ev|said|c|alias|pause|twins|token|unsent|ready|known|running|accounts|places|count"
    r"|restricted|pace|dead_operations|dead|account_names|accounts_known)(:(?P<rest>.*))?"
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
        for queue in QUEUES:  # accounts without work leave nothing behind
            places = set(client.hkeys(f"{shard}places:{queue}"))
            assert places <= set(client.zrange(f"{shard}accounts:{queue}", 0, -1))
    unsent = {member for key in keys if ":unsent:" in key for member in client.zrange(key, 0, -1)}
    assert unsent == {
        b"%s %s" % (key.split(":")[3].encode(), operation)
        for key in keys
        if ":c:" in key and key.endswith(":replies")
        for operation in client.lrange(key, 0, -1)[::2]
    }


def _check_life(client: Client, key: str, kind: str, keys: dict[str, Any]) -> None:
    forever = keys[key] == -1
    match kind:
        case "ev":
            state = client.hget(key, "state")
            assert forever == (state in {b"queued", b"dead"}), (
                f"{key} is {state!r}, TTL {keys[key]}"
            )
            assert client.hexists(key, "payload") == forever, f"{key} is {state!r}, payload?"
            calls = [name for name in client.hkeys(key) if name.startswith(b"call")]
            assert forever or not calls, f"{key} is {state!r}, and keeps {calls}"
        case "alias" | "pause" | "pace" | "token" | "twins" | "said":
            assert not forever, f"{key} lives forever"
        case "c" if key.endswith(":snap"):
            assert not forever, f"{key} lives forever"
        case "c" if key.count(":") == 3:
            assert forever == _is_busy(client, key), f"{key} has TTL {keys[key]}"
        case _:
            assert forever, f"{key} expires"


def _is_busy(client: Client, conversation: str) -> bool:
    return any(client.exists(f"{conversation}:{queue}") for queue in QUEUES)


def _check_one_place(client: Client, key: str) -> None:
    shard, event_key = key[:9], key[12:]
    conversation_key = client.hget(key, "conversation")
    assert conversation_key is not None
    inbox = client.lrange(f"{shard}c:{conversation_key.decode()}:inbox", 0, -1)
    assert inbox.count(event_key.encode()) == 1, (
        f"{event_key} is {inbox.count(event_key.encode())} times in an inbox"
    )


def _check_ready(client: Client, conversation: str) -> None:
    """A queue is in the index exactly while it has work, at the time at which it can be taken."""
    shard, conversation_key = conversation[:9], conversation[11:]
    has = {name.decode(): value for name, value in client.hgetall(conversation).items()}
    for queue in QUEUES:
        work = client.lrange(f"{conversation}:{queue}", 0, -1)
        due = max(int(has.get(f"{queue}.{name}", 0)) for name in ("until", "not_before"))
        if queue == "inbox" and work:
            ends = [int(client.hget(f"{shard}ev:{work[n].decode()}", "at")) for n in (0, -1)]
            due = max(due, min(ends[0] + int(has["max_debounce"]), ends[1] + int(has["debounce"])))
        indexed = client.zscore(f"{shard}ready:{queue}:{conversation_key[:15]}", conversation_key)
        assert indexed == (due if work else None), f"{queue} of {conversation_key}"
        if queue == "replies":
            known = client.zscore(f"{shard}known:{conversation_key[:15]}", conversation_key)
            assert known == (due if work and "replies.anchor" in has else None)
        if queue == "inbox":
            running = client.zscore(f"{shard}running:{conversation_key[:15]}", conversation_key)
            assert running == (int(has["inbox.until"]) if "inbox.until" in has else None)
        assert (
            not work or client.zscore(f"{shard}accounts:{queue}", conversation_key[:15]) is not None
        )


def _check_counts(client: Client, shard: str, keys: dict[str, Any]) -> None:
    def total(queue: str, width: int) -> int:
        names = [k for k in keys if k.startswith(f"{shard}c:") and k.endswith(f":{queue}")]
        elements: int = sum(client.llen(name) for name in names)
        return elements // width

    counted = {name.decode(): int(n) for name, n in client.hgetall(f"{shard}count").items()}
    expected = {
        "queued": total("inbox", 1),
        "writes": total("outbox", 2),
        "replies": total("replies", 2),
        "dead_operations": total("dead_operations", 9),
    }
    assert {name: counted.get(name, 0) for name in expected} == expected
    _check_dead_operations(client, shard, keys)


def _check_dead_operations(client: Client, shard: str, keys: dict[str, Any]) -> None:
    """The index names every conversation with dead operations, at the time of the oldest."""
    lists = [
        key for key in keys if key.startswith(f"{shard}c:") and key.endswith(":dead_operations")
    ]
    oldest = {key[11:-16].encode(): float(client.lindex(key, 4)) for key in lists}
    assert dict(client.zrange(f"{shard}dead_operations", 0, -1, withscores=True)) == oldest


def check_rows(sql: sqlite3.Connection) -> None:
    """The same of an SQLite store; every account with due work is in the ring, and no other."""
    queues: dict[tuple[str, QueueName], list[int]] = defaultdict(list)
    for event in _rows(sql, "events ORDER BY seq"):
        finished = event["state"] == "done"
        assert (event["expires"] is not None) == finished == (event["payload"] is None), event
        if event["state"] == "queued":
            queues[event["conversation"], "inbox"].append(event["accepted_at"])
    live = {event["event_key"] for event in _rows(sql, "events") if event["state"] != "done"}
    assert {call["event_key"] for call in _rows(sql, "calls")} <= live
    for operation in _rows(sql, "operations"):
        queues[operation["conversation"], operation["queue"]].append(0)
    talks = {talk["conversation"]: talk for talk in _rows(sql, "conversations")}
    for conversation_key, talk in talks.items():
        assert (talk["expires"] is None) == any(
            queues[conversation_key, queue] for queue in QUEUES
        ), talk
    ring = set()
    for row in _rows(sql, "queues"):
        work = queues[row["conversation"], row["queue"]]
        talk = talks[row["conversation"]]
        due = max(row["until"] or 0, row["not_before"])
        if row["queue"] == "inbox" and (further := work[row["pos"] or 0 :]):
            due = due if row["pos"] is None else row["until"] or 0  # those behind what is held
            due = max(due, min(further[0] + talk["max_debounce"], further[-1] + talk["debounce"]))
        assert row["due"] == (due if work else None), row
        if work and not is_claim(row["conversation"]):
            ring.add((row["queue"], row["account"]))
    assert {(row["queue"], row["account"]) for row in _rows(sql, "accounts")} == ring


def _rows(sql: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    found = sql.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]
