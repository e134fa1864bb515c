"""The engine under ``kill -9``, in short; ``make chaos`` runs longer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from tests.chaos.driver import Plan, Report, Sending, Store, play
from tests.chaos.fake_api import Manners
from tests.chaos.guards import GUARDS
from tests.chaos.oracle import (
    Kept,
    Returned,
    Run,
    Sent,
    Verdict,
    compare,
    judge,
    overlaps,
    reply_to,
)
from tests.chaos.report import breaches, small
from tests.chaos.script import Said, Talk, talks

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
KEYS = Manners(keys=True)
STORES: tuple[Store, ...] = ("sqlite", "redis")
SENDING: tuple[Sending, ...] = ("echoing", "silent")

#: What goes wrong without each guard.
MISSED: dict[str, Callable[[Report], bool]] = {
    "verify": lambda report: report.verdict.messages.doubled > 0,
    "settle": lambda report: report.verdict.messages.doubled > 0,
    "reply verify": lambda report: report.verdict.sends.doubled > 0,
    "reply settle": lambda report: report.verdict.sends.doubled > 0,
    "anchor": lambda report: report.verdict.messages.wrong > 0,
    "base": lambda report: report.left.dead_letters > 0,
    "overlay": lambda report: report.verdict.messages.stale > 0,
    "dedup": lambda report: report.verdict.messages.doubled > 0,
    "order": lambda report: report.verdict.messages.disordered > 0,
    "account": lambda report: report.verdict.replies.foreign > 0,
    "lease": lambda report: report.verdict.overlaps > 0,
    "heartbeat": lambda report: not report.finished or report.left.dead_letters > 0,
    "fence": lambda report: report.verdict.messages.doubled > 0,
    "own": lambda report: any("human" in line for line in report.strange),
    "once": lambda report: report.verdict.charges.doubled > 0,
}


def played(plan: Plan) -> Report:
    return asyncio.run(play(plan))


@pytest.mark.parametrize(
    ("store", "sending"),
    [*product(STORES, SENDING)]
    if LONG
    else [("sqlite", "echoing"), pytest.param("redis", "silent", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("turns", "kills"), [(40, 6), pytest.param(1000, 80, marks=pytest.mark.slow)]
)
def test_whatever_is_killed_nothing_is_lost_doubled_or_out_of_order(
    turns: int, kills: int, store: Store, sending: Sending, tmp_path: Path
) -> None:
    """``kill -9`` of workers, API server, WAHA and Redis, while both servers err as they can."""
    plan = Plan(folder=tmp_path, turns=turns, kills=kills, store=store, waha=sending)

    report = played(plan)

    assert breaches(plan, report) == []
    assert report.verdict.turns >= turns
    assert report.struck.total() == kills


@pytest.mark.slow  # `test_simulation.py` stops a process at every step
@pytest.mark.parametrize("store", STORES)
def test_a_worker_that_wakes_up_after_its_lease_changes_nothing(
    store: Store, tmp_path: Path
) -> None:
    """The API server honours ``Idempotency-Key``, so a late request is recognised."""
    plan = Plan(folder=tmp_path, turns=30, kills=4, store=store, profile="pauses", manners=KEYS)

    report = played(plan)

    assert breaches(plan, report) == []


def test_the_documents_sample_flow_fails_the_same_run(tmp_path: Path) -> None:
    """Its in-memory set of processed events loses and doubles, and mixes up tenants."""
    report = played(Plan(folder=tmp_path, turns=40, kills=5, naive=True))

    messages = report.verdict.messages
    assert min(messages.lost, messages.doubled, messages.foreign) > 0


def test_every_guard_says_what_goes_wrong_without_it() -> None:
    """None is taken on trust.

    To stand still at the very wrong moment is left to the simulator, and so is a WAHA that bans.
    """
    assert set(MISSED) == set(GUARDS) - {"late", "limit", "pace"}


@pytest.mark.slow  # that a run can fail is seen above
@pytest.mark.parametrize("store", STORES if LONG else STORES[:1])
@pytest.mark.parametrize("guard", [*MISSED] if LONG else ["verify", "overlay"])
def test_without_a_guard_the_same_run_fails(guard: str, store: Store, tmp_path: Path) -> None:
    """Each guard is needed, and the run would tell if it were gone."""
    plan = Plan(folder=tmp_path, store=store, without=guard)

    report = played(small(plan) if LONG else small(plan, turns=60, kills=8))

    assert MISSED[guard](report)


def telling_texts(talk: Talk) -> Talk:
    """The same with no text twice."""
    bursts = tuple(
        (Said(said.event_id, f"{talk.subdomain} {said.event_id}"),) for said in talk.said
    )
    return replace(talk, bursts=bursts)


TALK, OTHER = map(telling_texts, talks(turns=6, seed=1))


class Perfect:
    """What the oracle sees of conversations in which every event got a turn of its own."""

    def __init__(self) -> None:
        self.returned: list[Returned] = []
        self.sent: list[Sent] = []
        self.kept: list[Kept] = []
        self.finals: dict[str, dict[str, object]] = {}
        for talk in (TALK, OTHER):
            for number, said in enumerate(talk.said, start=1):
                self._turn(talk, said, number)

    def _turn(self, talk: Talk, said: Said, number: int) -> None:
        session, turn = talk.session_id, f"{talk.session_id}/{number}"
        reply = reply_to(talk.subdomain, number, number - 1, [said.event_id])
        answer = Returned(session, said.event_id, "answered", reply, turn, (said.event_id,))
        self.returned.append(answer)
        self.sent.append(Sent(turn, reply))
        for text in (f"user {said.text}", f"bot {reply}"):
            self.kept.append(Kept(session, "message", text))
        self.kept.append(Kept(session, "sync", reply))
        self.finals[session] = {"reply": reply, "language": "es"}

    def verdict(self) -> Verdict:
        return judge([TALK, OTHER], self.returned, self.sent, self.kept, self.finals)


def test_an_oracle_that_sees_nothing_wrong_says_so() -> None:
    """Green is possible."""
    verdict = Perfect().verdict()

    assert (verdict.messages.wrong, verdict.syncs.wrong, verdict.replies.wrong) == (0, 0, 0)
    assert verdict.turns == len(TALK.said) + len(OTHER.said)


STRANGE = Kept(
    TALK.session_id, "message", f"bot {OTHER.subdomain} #1 after #0: {OTHER.said[0].event_id}"
)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda kept: kept.pop(0), {"lost": 1}),
        (lambda kept: kept.insert(0, kept[0]), {"doubled": 1}),
        (lambda kept: kept.insert(0, kept.pop(1)), {"disordered": 1}),
        (lambda kept: kept.append(STRANGE), {"foreign": 1}),
    ],
    ids=["lost", "doubled", "moved", "of another tenant"],
)
def test_the_oracle_sees_what_became_of_a_message(
    change: Callable[[list[Kept]], object], found: dict[str, int]
) -> None:
    """One thing wrong is one thing counted."""
    seen = Perfect()
    change(seen.kept)

    messages = seen.verdict().messages

    assert {name: getattr(messages, name) for name in found} == found
    assert messages.wrong == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda kept: kept.pop(2), {"lost": 1}),
        (lambda kept: kept.insert(2, kept[2]), {"doubled": 1}),
        (lambda kept: kept.insert(0, kept.pop(5)), {"disordered": 1}),
    ],
    ids=["lost", "doubled", "moved"],
)
def test_the_oracle_sees_what_became_of_a_sync(
    change: Callable[[list[Kept]], object], found: dict[str, int]
) -> None:
    """A PUT is not neutral: its repetition counts too."""
    seen = Perfect()
    change(seen.kept)

    syncs = seen.verdict().syncs

    assert {name: getattr(syncs, name) for name in found} == found
    assert syncs.wrong == 1


def test_the_oracle_counts_what_is_said_again_and_again() -> None:
    """Two times "sí" are two messages."""
    assert compare(["sí", "no", "sí"], ["sí", "no"]) == (1, 0, 0)
    assert compare(["sí", "no"], ["sí", "no", "sí"]) == (0, 1, 0)


def test_the_oracle_sees_a_reply_that_was_sent_twice() -> None:
    """Two processes must never answer one event."""
    seen = Perfect()
    seen.sent.append(seen.sent[0])

    assert seen.verdict().sends.doubled == 1


def test_the_oracle_sees_an_event_that_was_answered_in_two_turns() -> None:
    """Its customer read two replies to one message."""
    seen = Perfect()
    seen.returned.append(replace(seen.returned[0], reply="another", turn_id="another"))

    assert seen.verdict().replies.wrong > 0


def test_the_oracle_sees_state_that_is_not_the_last_turns() -> None:
    """A late sync overwrote a newer one."""
    seen = Perfect()
    seen.finals[TALK.session_id]["reply"] = "older"

    assert seen.verdict().syncs.stale == 1


def test_the_oracle_sees_agents_that_ran_side_by_side() -> None:
    """Runs of one conversation follow each other."""
    runs = [Run("a", 1.0, 2.0), Run("a", 1.5, 3.0), Run("b", 1.5, 3.0)]

    assert overlaps(runs) == 1
