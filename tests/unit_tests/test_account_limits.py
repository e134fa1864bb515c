"""What WAHA tells of the limits that WhatsApp has set an account."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from langchain_convsync import waha
from langchain_convsync.cli._doctor import whatsapp
from langchain_convsync.client import WahaSession
from langchain_convsync.waha.limits import Limit, LimitKind, limit_in

ENDS = datetime(2026, 9, 3, 8, 12, 41, tzinfo=UTC)
STAMP = int(ENDS.timestamp())


@pytest.mark.parametrize(
    ("told", "limit"),
    [
        ({"isActive": True, "timeEnforcementEnds": STAMP}, Limit("timelock", ENDS)),
        ({"is_active": True, "time_enforcement_ends": str(STAMP)}, Limit("timelock", ENDS)),
        ({"isActive": True, "timeEnforcementEnds": ENDS.isoformat()}, Limit("timelock", ENDS)),
        ({"me": {"reachoutTimelock": {"isActive": True}}}, Limit("timelock")),
        (
            {"data": {"reachoutTimelock": {"isActive": True}}, "status": "WORKING"},
            Limit("timelock"),
        ),
        ({"isActive": False, "timeEnforcementEnds": STAMP}, None),
        ({"cappingStatus": "CAPPED", "cycleEndTimestamp": STAMP * 1000}, Limit("capping", ENDS)),
        ({"cappingStatus": "CAPPED", "totalQuota": -1, "cycleEnd": STAMP}, Limit("capping", ENDS)),
        ({"me": {"messageCapping": {"totalQuota": 5, "usedQuota": 5}}}, Limit("capping")),
        ({"totalQuota": 5, "usedQuota": 4, "cappingStatus": "SECOND_WARNING"}, None),
        ({"status": "WORKING"}, None),
        ({"me": {"reachoutTimelock": None, "messageCapping": []}}, None),
        ([{"isActive": True}], None),
        (None, None),
    ],
)
def test_a_limit_is_read_wherever_it_is_told(told: object, limit: Limit | None) -> None:
    """What cannot be read is none: sending shows it."""
    assert limit_in(told) == limit


def test_a_lock_counts_before_a_cap() -> None:
    """It lasts for less, and forbids more."""
    assert limit_in({"cappingStatus": "CAPPED"}, {"isActive": True}) == Limit("timelock")


def test_a_sessions_status_tells_it() -> None:
    """As the account, or in the payload."""
    lock = {"isActive": True, "timeEnforcementEnds": STAMP}
    body = {"event": "session.status", "session": "a", "payload": {"status": "WORKING"}}
    plain = waha.parse_event(body)
    locked = waha.parse_event({**body, "me": {"reachoutTimelock": lock}})

    assert isinstance(plain, waha.Ignored)
    assert isinstance(locked, waha.Ignored)
    assert (plain.status, plain.limit, plain.limited_until) == ("WORKING", None, None)
    assert (locked.status, locked.limit, locked.limited_until) == ("WORKING", "timelock", ENDS)


FREE = {"isActive": False, "timeEnforcementEnds": STAMP}
CAPPED, NEAR = {"cappingStatus": "CAPPED"}, {"cappingStatus": "FIRST_WARNING", "totalQuota": 9}


@pytest.mark.parametrize(
    ("me", "data", "over"),
    [
        ({"reachoutTimelock": FREE}, {"reachoutTimelock": FREE}, ("timelock",)),
        (None, {"reachoutTimelock": FREE}, ("timelock",)),
        ({"reachoutTimelock": FREE, "messageCapping": NEAR}, None, ("timelock", "capping")),
        ({"reachoutTimelock": FREE, "messageCapping": CAPPED}, None, ("timelock",)),
        ({"reachoutTimelock": FREE}, {"reachoutTimelock": {"isActive": True}}, ()),
        ({"reachoutTimelock": None, "messageCapping": None}, None, ()),  # WAHA knows of none
        ({"messageCapping": {"totalQuota": 9}}, {"messageCapping": {}}, ()),
        (None, None, ()),
    ],
)
def test_what_is_told_to_be_over(me: object, data: object, over: tuple[str, ...]) -> None:
    """In so many words: what is empty is not known yet."""
    payload = {"status": "WORKING", "data": data}
    told = waha.parse_event({"event": "session.status", "me": me, "payload": payload})

    assert isinstance(told, waha.Ignored)
    assert told.limits_over == over


@pytest.mark.parametrize(
    ("kind", "told"),
    [("timelock", "ventas sends nothing: "), ("capping", "ventas begins no new chats: ")],
)
def test_doctor_tells_it(kind: LimitKind, told: str) -> None:
    """Although the session works."""
    found = whatsapp.session(WahaSession("ventas", "WORKING", limit=Limit(kind, ENDS)))

    assert found.status == "failed"
    assert found.message == f"{told}WhatsApp's {kind}, until 2026-09-03 08:12 UTC"
