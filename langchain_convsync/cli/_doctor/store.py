"""Whether the event store works, can lose anything, and what is left to do in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import redis

from langchain_convsync._flow import run
from langchain_convsync._lines import count_of
from langchain_convsync.cli._doctor.findings import Area, Finding
from langchain_convsync.cli._store import existing_store
from langchain_convsync.errors import ConfigurationError, StoreFormatError, StoreUnavailableError
from langchain_convsync.settings import optional_setting
from langchain_convsync.stores import (
    FORMAT_VERSION,
    Backlog,
    EventStore,
    RedisEventStore,
    SQLiteEventStore,
)
from langchain_convsync.stores.base import Restriction
from langchain_convsync.stores.served import serves
from langchain_convsync.stores.sqlite.damage import checked_at, recovery
from langchain_convsync.waha.limits import meanwhile

STORE = Area("store")
_SET = "pass the right --store, or set CONVSYNC_STORE_URL"
_WORKER = "convsync worker MODULE:RUNNER"
#: Seconds that a file is looked at.
LONGEST_CHECK = 10.0
_BY_HAND = "stop the bot, then run: sqlite3 FILE 'PRAGMA integrity_check'"
_DECIDE = "convsync retry KEY or convsync discard KEY"


def store(url: str | None, addresses: Sequence[str] = ()) -> list[Finding]:
    """Every finding about the store that ``--store`` or the environment names.

    Args:
        url: The store.
        addresses: Where the API server's endpoints may be.
    """
    url = optional_setting(url, "CONVSYNC_STORE_URL")
    if url is None:
        return [STORE.skipped("reachable", "none is named", _SET)]
    try:
        with closing(existing_store(url)) as opened:
            sound = soundness(opened.path) if isinstance(opened, SQLiteEventStore) else []
            if any(finding.status == "failed" for finding in sound):
                return sound
            return [*_opened(opened, addresses), *sound]
    except ConfigurationError as error:
        return [STORE.failed("reachable", str(error), _SET)]
    except StoreFormatError as error:
        upgrade = "pip install --upgrade langchain-convsync"
        advice = upgrade if error.is_newer else "then run doctor again"
        return [STORE.failed("format", str(error), advice)]
    except StoreUnavailableError as error:
        return [STORE.failed("reachable", str(error), "mend that, then run doctor again")]


def _opened(opened: EventStore, addresses: Sequence[str]) -> list[Finding]:
    run(opened.keys())
    kind = "Redis" if isinstance(opened, RedisEventStore) else "SQLite"
    return [
        STORE.ok("reachable", f"{kind} answers"),
        STORE.ok("format", f"its records have a format that is read here (up to {FORMAT_VERSION})"),
        *(safety(opened) if isinstance(opened, RedisEventStore) else ()),
        *_served(opened, addresses),
        *left(run(opened.backlog())),
        *(_restricted(each) for each in run(opened.restrictions())),
    ]


def soundness(path: str) -> list[Finding]:
    """Whether a file can be read, all of it; nothing is written there, or to its log."""
    try:
        flaws, complete = checked_at(path, seconds=LONGEST_CHECK)
    except sqlite3.Error as error:
        return [STORE.skipped("damage", f"the file cannot be looked at: {error}", _BY_HAND)]
    if any("not a database" in flaw for flaw in flaws):
        message = f"{path} is not a SQLite database, or its beginning is overwritten"
        return [
            STORE.failed("reachable", message, f"{_SET}; if it is the right one: {recovery(path)}")
        ]
    if flaws:
        message = f"{path} is damaged: {'; '.join(flaws)}"
        return [STORE.failed("damage", message, recovery(path))]
    if not complete:
        message = f"none was found in {LONGEST_CHECK:.0f} s, and the file is larger than that"
        return [STORE.skipped("damage", message, _BY_HAND)]
    return [STORE.ok("damage", "every page, index and constraint of the file is sound")]


def _served(opened: EventStore, addresses: Sequence[str]) -> list[Finding]:
    """Whether the store is this API server's."""
    if not addresses:
        return []
    served = run(serves(opened, addresses))
    if served is None:
        return [STORE.ok("API server", "it serves none yet: the first one that is used with it")]
    if served:
        return [STORE.ok("API server", "it serves the one that is configured")]
    advice = (
        "give each API server a store of its own; where it is the same one under another address: "
        f"convsync adopt {addresses[0]}"
    )
    return [STORE.failed("API server", "it serves another one than is configured", advice)]


def safety(opened: RedisEventStore) -> list[Finding]:
    """Whether Redis can lose what it acknowledged."""
    try:
        found = run(opened.risks())
    except StoreUnavailableError as error:
        if not isinstance(error.__cause__, redis.ResponseError):
            raise
        advice = "check by hand: appendonly yes, maxmemory-policy noeviction, version 6.2 or newer"
        return [STORE.skipped("safety", "Redis does not allow INFO", advice)]
    if not found:
        return [STORE.ok("safety", "INFO tells no way of losing what was acknowledged")]
    return [
        STORE.warning("safety", f"Redis can lose acknowledged events: {risk.what}", risk.remedy)
        for risk in found
    ]


def _restricted(found: Restriction) -> Finding:
    """An account whose replies wait, or those to first contacts."""
    message = f"account {found.account} {meanwhile(found.kind)} ({found.kind}): {found.why}"
    advice = {
        "session": "start it in WAHA, or scan its QR code: its replies go on by themselves",
        "capping": "whoever has had a message of it before is answered; the others when that ends",
    }.get(found.kind, "wait: a reply tries by itself when that ends")
    return STORE.warning("account", message, advice)


def left(backlog: Backlog) -> list[Finding]:
    """What is still to be done, and whether a worker or an operator has to do it."""
    findings = []
    if backlog.queued or backlog.writes or backlog.replies:
        message = (
            f"{count_of(backlog.queued, 'event')}, {count_of(backlog.writes, 'API write')} and "
            f"{count_of(backlog.replies, 'reply', 'replies')} are not done yet"
        )
        advice = f"they are done by a running bot, or by a worker: {_WORKER}"
        findings.append(STORE.warning("left to do", message, advice))
    else:
        findings.append(STORE.ok("left to do", "nothing"))
    if backlog.dead_letters:
        kinds = "event, write or reply waits", "events, writes or replies wait"
        message = f"{count_of(backlog.dead_letters, *kinds)} for your decision"
        advice = f"convsync dead-letters tells whose and why; mend that first, then {_DECIDE}"
        findings.append(STORE.warning("dead letters", message, advice))
    else:
        findings.append(STORE.ok("dead letters", "none"))
    return findings
