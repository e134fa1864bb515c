"""``convsync doctor --write``: each habit of a server that can be seen is told, and no other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from langchain_convsync import ServerProfile
from langchain_convsync.server import QUIRKS
from langchain_convsync.testing import ReferenceServer
from tests.client_calls import PHONE, conversation
from tests.doctor_runs import Report, Routes, doctor, examined
from tests.faulty_server import Received, answers

BOT = "67890abcdef0123456789abc"
SETTINGS = {setting.name for setting in dataclasses.fields(ServerProfile)} - {"groups"}
BOTH = "messages_not_stored,context_replaced"  # a history can only be synced, with all the rest
EVERY_SERVER = ["", *QUIRKS, BOTH, "observed"]

#: What each quirk shows beside the profile: the check, and a word that only it brings.
HABITS = {
    "bare_start": ("conversation", "fields", "no context and no metadata"),
    "whole_answers": ("writing", "answers", "whole document"),
    "intent_repeats": ("writing", "repeated sync", "previous intent too"),
    "fixed_expiry": ("writing", "expiry", "do not prolong"),
    "messages_not_stored": ("writing", "history", "echoed, but not stored"),
    "keys_ignored": ("writing", "Idempotency-Key", "applied again"),
    "context_replaced": ("writing", "context", "replaces the whole context"),
    "intent_enum": ("writing", "intents", "unknown intents are refused (status 500)"),
    "records_inbound": ("conversation", "inbound", "records what the customer writes"),
}


def quirky(name: str) -> ReferenceServer:
    """A server with a quirk or two, all of a public one's, or none."""
    return ReferenceServer(quirks=name.split(",") if name else [])


def arrive(server: ReferenceServer, number: int) -> None:
    """A customer's messages, as WAHA brings them."""
    for n in range(number):
        payload = {
            "id": f"false_51999999999@c.us_AAAA{n:04}",
            "timestamp": 1767000000 + n,
            "from": "51999999999@c.us",
            "fromMe": False,
            "body": f"Hola {n}",
        }
        metadata = {"subdomain": "restaurant", "bot.id": BOT}
        event = {"event": "message", "session": "default", "metadata": metadata, "payload": payload}
        assert server.deliver(event)["accepted"]


def tried(server: ReferenceServer) -> Report:
    """What doctor finds when it may write."""
    return doctor("--base-url", server.base_url, "--phone", PHONE, "--write")


def as_seen(report: Report, profile: ServerProfile) -> dict[str, Any]:
    """The settings of a profile that the report claims to have seen."""
    return {name: getattr(profile, name) for name in report.json["seen"]}


@pytest.mark.parametrize("quirk", EVERY_SERVER)
def test_the_profile_of_a_server_where_a_customer_just_wrote_is_right(quirk: str) -> None:
    """Each setting that is claimed; all but the cap and the settle time are."""
    with quirky(quirk) as server:
        arrive(server, 1)
        report = tried(server)

    assert as_seen(report, report.profile) == as_seen(report, server.profile)
    assert set(report.json["seen"]) == SETTINGS - {"settle", "history_cap"}
    assert report.exit_code == 0, report.failed


@pytest.mark.parametrize("quirk", EVERY_SERVER)
def test_the_profile_of_a_server_with_a_long_history_is_right(quirk: str) -> None:
    """A cap shows when a message pushes another one out."""
    with quirky(quirk) as server:
        said = [{"role": "user" if n % 2 else "bot", "content": f"m{n}"} for n in range(20)]
        number = "51999999999@c.us" if server.profile.phone_format == "jid" else PHONE
        server.create_conversation(
            phone_number=number,
            subdomain="restaurant",
            bot_id=BOT,
            context={"previousMessages": said, "cart": ["pizza"]},
        )
        report = tried(server)

    capped = {"history_cap"} if quirk in {"last_20", "observed"} else set()
    assert as_seen(report, report.profile) == as_seen(report, server.profile)
    assert (
        set(report.json["seen"]) == SETTINGS - {"settle", "records_inbound", "history_cap"} | capped
    )


def test_the_profile_of_the_observed_server_is_whole() -> None:
    """With twenty messages of a customer, nothing but the settle time is a guess."""
    with quirky("observed") as server:
        said = [{"role": "user", "content": f"m{n}"} for n in range(20)]
        server.create_conversation(
            phone_number="51999999999@c.us",
            subdomain="restaurant",
            bot_id=BOT,
            context={"previousMessages": said},
        )
        report = tried(server)

    assert report.profile == server.profile


@pytest.mark.parametrize("quirk", HABITS)
def test_a_habit_is_told_where_it_is_and_nowhere_else(quirk: str) -> None:
    """In words."""
    area, check, words = HABITS[quirk]
    reports = []
    for name in (quirk, ""):
        with quirky(name) as server:
            arrive(server, 1)
            reports.append(tried(server))

    there, elsewhere = (report.of(area, check)["message"] for report in reports)
    assert words in there
    assert words not in elsewhere


@pytest.mark.parametrize("quirk", EVERY_SERVER)
def test_what_is_left_behind_is_what_is_named(quirk: str) -> None:
    """State, the tenant's own keys and what was said before are as they were."""
    with quirky(quirk) as server:
        number = "51999999999@c.us" if server.profile.phone_format == "jid" else PHONE
        said = [{"role": "user", "content": "Hola"}, {"role": "bot", "content": "¡Hola!"}]
        server.create_conversation(
            phone_number=number,
            subdomain="restaurant",
            bot_id=BOT,
            intent="order",
            step="selecting",
            context={"previousMessages": said, "cart": ["pizza"]},
        )
        before = server.conversation(number)
        report = tried(server)
        after = server.conversation(number)

    left = report.of("writing", "left behind")["message"]
    mine = [message for message in after.messages if message.content.startswith("convsync doctor")]
    assert (after.current_intent, after.current_step) == ("order", "selecting")
    assert after.is_active
    assert after.messages[:2] == before.messages
    assert after.messages[2:] == mine
    assert f"{len(mine)} message" in left
    assert mine[0].content[: len("convsync doctor 01234567")] in left
    assert all(message.role == "bot" for message in mine)
    new = set(after.context) - set(before.context)
    assert after.context["cart"] == ["pizza"]
    assert new == (
        set() if "context_replaced" in quirk else {"convsyncDoctor", "convsyncDoctorToo"}
    )
    assert all(key in left for key in new)


def test_a_second_run_finds_the_same() -> None:
    """What doctor itself wrote is no sign of an agent."""
    with quirky("observed") as server:
        arrive(server, 3)
        first, second = tried(server), tried(server)

    assert first.profile == second.profile
    assert first.json["seen"] == second.json["seen"]


def test_a_closed_conversation_is_not_reopened() -> None:
    """A missing isActive is taken for true by some servers."""
    bodies: list[Any] = []

    def noted(request: Received) -> Any:
        if request.method == "PUT":
            bodies.append(request.json)
        return Routes(lookup=answers(conversation(isActive=False)))(request)

    examined(noted, "--phone", PHONE, "--write")

    assert bodies
    assert all(body["isActive"] is False for body in bodies)


def test_a_server_that_stores_nothing_at_all_is_a_failure() -> None:
    """It answers every write as if it was applied."""
    report = examined(Routes(lookup=answers(conversation())), "--phone", PHONE, "--write")

    assert report.failed == [("writing", "context"), ("writing", "history")]
    assert report.exit_code == 1


def test_a_write_that_fails_is_told_and_the_others_are_tried() -> None:
    """With where to look."""

    def writes_fail(request: Received) -> Any:
        refused = answers({"type": "3", "message": "", "data": None}, 500)
        routes = Routes(lookup=answers(conversation()))
        return (routes if request.method == "GET" else refused)(request)

    report = examined(writes_fail, "--phone", PHONE, "--write")

    assert report.failed == [("writing", name) for name in ("context", "history", "intents")]
    assert all(f["advice"] for f in report.json["findings"] if f["status"] == "failed")
    assert "may have left more" in report.of("writing", "left behind")["message"]


@pytest.mark.parametrize("breaking", [1, 2])
def test_a_context_that_may_be_gone_is_put_back_when_the_rest_fails(breaking: int) -> None:
    """A server that replaces it, and breaks while it does or right after it did."""
    puts: list[Any] = []

    def breaks(request: Received) -> Any:
        if request.method == "PUT":
            puts.append(request.json)
        if request.method == "PUT" and len(puts) == breaking:
            return answers({"type": "3", "message": "", "data": None}, 500)(request)
        return Routes(lookup=answers(conversation(context={"cart": ["pizza"]})))(request)

    examined(breaks, "--phone", PHONE, "--write")

    assert puts[breaking]["context"] == {"cart": ["pizza"]}


@pytest.mark.parametrize(
    ("status", "word", "seen"),
    [(409, "refused", True), (422, "refused", True), (500, "cannot be told", False)],
)
def test_a_key_that_is_refused_when_repeated_is_told(status: int, word: str, seen: bool) -> None:
    """Some servers answer a repetition with 409; a failure tells nothing."""
    said: list[Any] = []

    def once(request: Received) -> Any:
        if request.method == "POST":
            said.append({**request.json, "timestamp": "2026-01-01T00:00:00Z"})
            if len(said) > 1:
                return answers({"type": "3", "message": "", "data": None}, status)(request)
        return Routes(lookup=answers(conversation(context={"previousMessages": said[:1]})))(request)

    report = examined(once, "--phone", PHONE, "--write")

    assert word in report.of("writing", "Idempotency-Key")["message"]
    assert ("idempotency_keys" in report.json["seen"]) == seen
    assert report.profile.idempotency_keys is False


def test_a_server_that_keeps_the_first_message_only_is_not_taken_for_one_that_stores() -> None:
    """One message cannot tell, so there are two."""
    said: list[Any] = []

    def first_only(request: Received) -> Any:
        if request.method == "POST":
            said.append({**request.json, "timestamp": "2026-01-01T00:00:00Z"})
        return Routes(lookup=answers(conversation(context={"previousMessages": said[:1]})))(request)

    report = examined(first_only, "--phone", PHONE, "--write")

    assert "not stored" in report.of("writing", "history")["message"]
    assert "history" not in report.json["seen"]
