"""What WAHA says when it does not send, and what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.errors import WAHAError
from langchain_convsync.outbox import PendingReply
from langchain_convsync.outbox.refused import EXPIRES, LONGEST_GAP, Refusals
from langchain_convsync.waha.refusals import LONGEST, RefusalKind, refusal_of

CHAT, LID = "51999999999@c.us", "38000000000001@lid"
REPLY = PendingReply(turn="t1", chat_id=CHAT, other_chats=(LID,), text="¿Algo más?", decided_at=0.0)


def gows(words: str) -> dict[str, object]:
    return {"statusCode": 500, "exception": {"message": words}, "version": {"engine": "GOWS"}}


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [
        (500, gows("2 UNKNOWN: no LID found for 55@s.whatsapp.net from server"), "chat"),
        (500, gows("Lid is missing in chat table"), "chat"),
        (404, {"message": "chat not found"}, "chat"),
        (500, gows("server returned error 463"), "timelock"),
        (500, gows("2 UNKNOWN: the account is restricted until tomorrow"), "timelock"),
        (500, gows("o servidor retornou o erro 463"), "timelock"),
        (500, gows("new chat message capping reached"), "capping"),
        (500, gows("2 UNKNOWN: server returned error 475"), "capping"),
        (422, {"error": "Session status is not as expected", "status": "STOPPED"}, "session"),
        (422, {}, "session"),
        (422, {"message": "Available only in the Plus version"}, "message"),
        (400, {"message": ["text must be a string"]}, "message"),
        (401, {"message": "Unauthorized"}, "message"),
        (413, None, "message"),
        (404, None, "unclear"),
        (429, {"message": "rate-overlimit"}, "unclear"),
        (500, gows("server returned error 479"), "unclear"),
        (500, {"exception": ["odd"]}, "unclear"),
        (503, None, "unclear"),
    ],
)
def test_what_waha_says_decides(status: int, told: object, kind: RefusalKind) -> None:
    """The status alone tells too little."""
    assert refusal_of(status, told).kind == kind


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (f"no LID found for {CHAT} from server", "no LID found for … from server"),
        ("no LID found for 51999999999:12@s.whatsapp.net", "no LID found for …@s.whatsapp.net"),
        ("+51 999 999-999 is not on WhatsApp", "… is not on WhatsApp"),
        ("could not send '¿Algo más?' to https://a.example/b?c=d", "could not send '…' to …"),
        ("server returned\nerror 463", "server returned error 463"),
        ("user PE.1A2b3C4d5 of status 1006 is unknown", "user … of status 1006 is unknown"),
    ],
)
def test_its_words_are_kept_without_a_number_or_what_was_to_be_sent(words: str, left: str) -> None:
    """They stand in logs and dead letters."""
    assert refusal_of(500, gows(words), sent=[CHAT, "¿Algo más?"]).words == left


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=3), st.text())
def test_whatever_it_says_is_a_short_line(words: object, error: str) -> None:
    """Or none."""
    told = {"exception": {"message": words}, "error": error, "status": words}
    found = refusal_of(500, told).words
    assert len(found) <= LONGEST
    assert found.isprintable() or not found.isascii()


def failure(status: int | None = 500, **facts: object) -> WAHAError:
    return WAHAError("WAHA refused", status_code=status, **facts)  # type: ignore[arg-type]


def test_unclear_failures_go_around_the_customers_ids_and_end() -> None:
    """The first one starts the clock."""
    first = Refusals().after_failure(REPLY, failure(ambiguous=True), now=100.0)
    second = first.after_failure(REPLY, failure(ambiguous=True), now=110.0)

    assert [each.chat_of(REPLY) for each in (first, second)] == [LID, CHAT]
    assert second.chats_of(REPLY) == [CHAT, LID]
    third = second.after_failure(REPLY, failure(ambiguous=True), now=130.0)
    assert third.end_of(REPLY, now=150.0, timeout=60.0) is None
    assert third.end_of(REPLY, now=160.0, timeout=60.0) == (
        "WAHA has failed at it for 60 s: WAHA refused (status 500)"
    )


def test_time_in_which_nobody_could_send_it_does_not_count() -> None:
    """The account was locked, or every worker dead: it is tried again first."""
    refusals = Refusals().after_failure(REPLY, failure(ambiguous=True), now=100.0)

    assert refusals.end_of(REPLY, now=5000.0, timeout=900.0) is None
    refusals = refusals.after_failure(REPLY, failure(ambiguous=True), now=5000.0)
    assert refusals.failing == LONGEST_GAP


@pytest.mark.parametrize(
    "away",
    [failure(None), failure(502, ambiguous=True, foreign=True), failure(422, kind="session")],
)
def test_a_waha_that_is_away_stops_the_clock(away: WAHAError) -> None:
    """It waits for hours, and no longer."""
    refusals = Refusals().after_failure(REPLY, failure(), now=100.0)
    refusals = refusals.after_failure(REPLY, away, now=200.0)

    assert refusals.end_of(REPLY, now=EXPIRES - 1, timeout=900.0) is None
    assert refusals.end_of(REPLY, now=EXPIRES + 1, timeout=900.0) is not None


def test_it_is_kept_as_a_note() -> None:
    """What another version noted is nothing."""
    refusals = Refusals().after_refusal(REPLY, failure(kind="chat"))

    assert Refusals.read(refusals.note) == refusals
    assert Refusals.read("[1]") == Refusals.read(None) == Refusals()
