"""``convsync doctor`` at an API server: each thing that goes wrong is told, with what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from langchain_convsync.cli import command_line, main
from langchain_convsync.settings import DOCUMENTED_PREFIX
from langchain_convsync.testing import ReferenceServer
from tests.client_calls import PHONE, conversation
from tests.doctor_runs import NOT_FOUND, Routes, doctor, examined, printed
from tests.faulty_server import (
    HANG,
    Deed,
    FaultyServer,
    Received,
    Script,
    answers,
    head,
    sends,
)
from tests.pages import ROOT
from tests.stored_names import stored_as

API, CONVERSED = "API server", "conversation"
BOT = "67890abcdef0123456789abc"
HTML = answers("<html>Cannot GET</html>", 404, content_type="text/html")


def test_a_documented_server_has_nothing_to_mend() -> None:
    """Status 0; store and WAHA are skipped with a word."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE, subdomain="restaurant", bot_id=BOT)
        report = doctor("--base-url", server.base_url, "--phone", PHONE)

    statuses = {(f["area"], f["status"]) for f in report.json["findings"]}
    unused = ("transport", "skipped")
    skipped = {("store", "skipped"), ("WAHA", "skipped"), ("writing", "skipped"), unused}
    assert statuses == {(API, "ok"), (CONVERSED, "ok")} | skipped
    assert (report.exit_code, report.json["ok"]) == (0, True)


def test_without_write_nothing_is_written() -> None:
    """It is run against production."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE, subdomain="restaurant", bot_id=BOT)
        doctor("--base-url", server.base_url, "--phone", PHONE)

    assert {request.method for request in server.requests} == {"GET"}


def test_everything_but_ok_says_what_to_do() -> None:
    """For programs each finding has the same five fields."""
    with ReferenceServer(quirks="observed") as server:
        report = doctor("--base-url", server.base_url, "--phone", PHONE)

    assert set(report.json) == {"ok", "findings", "profile", "seen"}
    for finding in report.json["findings"]:
        assert set(finding) == {"area", "check", "status", "message", "advice"}
        assert bool(finding["advice"]) == (finding["status"] != "ok")


def test_people_read_one_line_per_check_and_one_for_what_to_do() -> None:
    """However narrow the terminal."""
    with ReferenceServer() as server:
        text = printed("--base-url", server.base_url, "--phone", PHONE)

    lines = text.partition("\n\n")[0].splitlines()
    starts = {line.split()[0] for line in lines}
    assert starts == {"ok", "failed", "skipped", "next:"}
    assert "failed  conversation, lookup: " in text
    assert "1 failed" in text


def test_no_base_url_is_a_finding_too() -> None:
    """Store and WAHA are looked at all the same."""
    report = doctor()

    assert report.failed == [(API, "configuration")]
    assert "CONVSYNC_BASE_URL" in report.of(API, "configuration")["advice"]
    assert report.exit_code == 1


def test_plain_http_to_another_machine_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent; the reason is told."""
    monkeypatch.setenv("CONVSYNC_BASE_URL", "http://api.example.com")

    assert "must be https" in doctor().of(API, "configuration")["message"]


@pytest.mark.allow_hosts(["127.0.0.1", "0.0.0.0"])
def test_plain_http_that_was_opened_by_name_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """To an address that is not known to be this machine."""
    monkeypatch.setenv("CONVSYNC_ALLOW_HTTP", "0.0.0.0")
    with FaultyServer() as server:
        server.plays(Routes())
        report = doctor("--base-url", server.url.replace("127.0.0.1", "0.0.0.0"))

    assert report.status(API, "TLS") == "warning"
    assert "0.0.0.0 over plain http" in report.of(API, "TLS")["message"]
    assert report.failed == []


def test_a_base_url_that_holds_the_prefix_is_a_finding() -> None:
    """With the URL to pass instead."""
    report = doctor("--base-url", "https://api.example.com/api/v1/whatsapp")

    assert report.failed == [(API, "configuration")]
    assert "pass https://api.example.com and" in report.of(API, "configuration")["message"]


@pytest.mark.parametrize(
    ("key", "arguments", "word"),
    [("two words", (), "CONVSYNC_API_KEY"), ("right", ("--prefix", "/a?b"), "plain path")],
)
def test_a_setting_that_cannot_be_sent_is_a_finding(
    key: str, arguments: tuple[str, ...], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent; which one it is, is told."""
    monkeypatch.setenv("CONVSYNC_API_KEY", key)

    report = doctor("--base-url", "https://api.example.com", *arguments)

    assert report.failed == [(API, "configuration")]
    assert word in report.of(API, "configuration")["message"]


# Not reached


def test_a_server_that_is_down_is_told_so() -> None:
    """And everything that hangs on it is skipped."""
    with FaultyServer() as server:
        gone = server.url

    report = doctor("--base-url", gone)

    assert report.failed == [(API, "reachable")]
    assert "nothing listens there" in report.of(API, "reachable")["advice"]
    assert report.status(API, "everything else") == "skipped"


def test_a_server_that_hangs_is_told_so() -> None:
    """Within the time that each answer gets."""
    report = examined(sends(HANG), "--timeout", "0.1")

    assert "not overloaded" in report.of(API, "reachable")["advice"]


def test_a_port_without_tls_is_told_so() -> None:
    """A server that speaks plain http, asked for https."""
    with ReferenceServer() as server:
        report = doctor("--base-url", server.base_url.replace("http:", "https:"))

    assert report.failed == [(API, "TLS")]
    assert "speaks TLS" in report.of(API, "TLS")["advice"]


# Not understood


def test_endpoints_at_the_observed_prefix_are_found() -> None:
    """A wrong prefix is a 404 in HTML; what answers is named, with the setting."""
    with ReferenceServer(quirks=["prefix"]) as server:
        found = doctor("--base-url", server.base_url).of(API, "prefix")

    assert found["status"] == "warning"
    assert "404, HTML" in found["message"]
    assert 'ServerProfile(prefix="/api/v1/whatsapp-providers")' in found["advice"]


def test_an_endpoint_that_is_not_there_is_no_prefix() -> None:
    """Although the reference server says so in the API's envelope."""
    with ReferenceServer() as server:
        below = doctor("--base-url", f"{server.base_url}/v1").of(API, "prefix")
        beside = doctor("--base-url", server.base_url, "--prefix", "/v1")

    assert below["status"] == "failed"
    assert "/health: 404" in below["message"]
    assert "leave the path /v1 out of base_url" in below["advice"]
    assert beside.profile.prefix == DOCUMENTED_PREFIX


OBSERVED = "/api/v1/whatsapp-providers"


@pytest.mark.parametrize("key", [None, "a-key"])
@pytest.mark.parametrize(
    "refusal",
    [
        answers({"error": "Access denied. No token provided."}, 401),
        answers({"message": "Forbidden"}, 403),
        answers({"error": "Invalid token."}, 400),
        answers({"hello": "world"}),
    ],
    ids=["401", "403", "400", "200"],
)
@pytest.mark.parametrize(
    "routes",
    [
        Routes(),
        Routes(health=HTML),
        Routes(health=answers({"status": "up"})),
        Routes(health=answers({"message": "Unauthorized"}, 401)),
    ],
    ids=["health", "no health", "bare health", "health that asks for a key"],
)
def test_another_router_under_the_documented_prefix_is_not_the_api(
    routes: Routes, refusal: Script, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal without the envelope is anybody's: the prefix that answers with it wins."""
    if key is not None:
        monkeypatch.setenv("CONVSYNC_API_KEY", key)

    def both(request: Received) -> Iterable[bytes | float | Deed]:
        if request.target.startswith(OBSERVED + "/"):
            return routes(request)
        return (refusal if request.target.endswith("/health") else HTML)(request)

    report = examined(both)

    assert report.profile.prefix == OBSERVED
    assert report.status(API, "prefix") == "warning"
    assert report.status(API, "envelope") == "ok"


def test_the_pairs_of_a_public_server_lead_to_its_prefix() -> None:
    """What was seen there, asked for without a key."""
    pairs = json.loads((ROOT / "tests" / "observed" / "api-server.json").read_text("utf-8"))[
        "pairs"
    ]
    health = {
        pair["request"]["path"]: pair["response"]
        for pair in pairs
        if pair["case"].startswith("G health")
    }

    def seen(request: Received) -> Iterable[bytes | float | Deed]:
        found = health.get(request.target)
        if found is None:
            return (Routes() if request.target.startswith(OBSERVED) else HTML)(request)
        return answers(found["body"], found["status"])(request)

    assert len(health) == 2
    assert examined(seen).profile.prefix == OBSERVED


def test_a_health_without_envelope_is_likelier_than_a_refusal() -> None:
    """The API may have no envelope for either, and ask for a key."""
    refused = answers({"message": "Unauthorized"}, 401)
    routes = Routes(health=answers({"status": "up"}), unknown=refused)

    def both(request: Received) -> Iterable[bytes | float | Deed]:
        return (routes if request.target.startswith(OBSERVED + "/") else refused)(request)

    assert examined(both).status(API, "prefix") == "warning"


def test_a_refusal_without_envelope_is_taken_where_nothing_else_answers() -> None:
    """Then it is the key that is to be mended first."""
    refused = answers({"message": "Unauthorized"}, 401)

    report = examined(refused)

    assert report.failed == [(API, "key"), (API, "envelope")]
    assert report.status(API, "prefix") == "ok"


def test_another_prefix_can_be_named() -> None:
    """It is tried first."""

    def elsewhere(request: Received) -> Iterable[bytes | float | Deed]:
        return (Routes() if request.target.startswith("/v2/") else HTML)(request)

    report = examined(elsewhere, "--prefix", "/v2")

    assert report.failed == []
    assert report.profile.prefix == "/v2"


@pytest.mark.parametrize(
    ("script", "path", "advice"),
    [
        (HTML, "", "pass --prefix"),
        (HTML, "/v1/whatsapp", "leave the path /v1/whatsapp out"),
        (answers("<html>", 301, content_type="text/html"), "", "redirects to"),
        (answers("<html>", 502, content_type="text/html"), "", "their logs"),
        (answers("no", 401, content_type="text/plain"), "", "proxy in front"),
    ],
    ids=["html", "path in base_url", "redirect", "gateway", "proxy that asks for a key"],
)
def test_what_is_no_api_is_told_so(script: Any, path: str, advice: str) -> None:
    """By what it answers, which is never repeated."""
    with FaultyServer() as server:
        server.plays(script)
        report = doctor("--base-url", server.url + path)

    assert report.failed == [(API, "prefix")]
    assert advice in report.of(API, "prefix")["advice"]


@pytest.mark.parametrize(
    ("routes", "failed"),
    [
        (Routes(health=answers({"type": "3", "message": "", "data": None}, 503)), "health"),
        (Routes(health=answers({"type": "3", "message": "", "data": None})), "health"),
        (Routes(unknown=answers("<html>", 404, content_type="text/html")), "envelope"),
        (Routes(unknown=answers({"detail": "Not Found"}, 404)), "envelope"),
        (Routes(unknown=answers({"type": "3"}, 401)), "key"),
        (Routes(unknown=answers({"type": "3"}, 403)), "key"),
        (Routes(unknown=answers({"type": "3"}, 500)), "key"),
    ],
)
def test_an_answer_that_is_not_as_documented_is_told(routes: Routes, failed: str) -> None:
    """Each by its own check."""
    assert examined(routes).failed == [(API, failed)]


def test_errors_with_status_200_are_understood() -> None:
    """Some servers answer so."""
    report = examined(Routes(unknown=answers(NOT_FOUND)))

    assert report.failed == []
    assert "status 200" in report.of(API, "envelope")["message"]


def keyed(request: Received) -> Iterable[bytes | float | Deed]:
    """A server that asks for one key."""
    if request.headers.get("authorization") == "Bearer right":
        return Routes()(request)
    return answers({"type": "3", "message": "", "data": None}, 401)(request)


@pytest.mark.parametrize(
    ("key", "status", "word"),
    [("right", "ok", "accepted"), ("wrong", "failed", "not accept"), (None, "failed", "asks for")],
)
def test_whether_the_key_is_accepted_is_told(
    key: str | None, status: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes from the environment, as everywhere; a command line can be read by others."""
    if key is not None:
        monkeypatch.setenv("CONVSYNC_API_KEY", key)

    found = examined(keyed).of(API, "key")

    assert found["status"] == status
    assert word in found["message"]


@pytest.mark.parametrize(
    ("seconds", "word"), [(0, "agrees"), (90, "ahead of"), (-90, "behind")], ids=str
)
def test_a_clock_that_is_wrong_is_told(seconds: int, word: str) -> None:
    """By the Date of its answer."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    report = examined(Routes(health=answers({"type": "1"}, date=date)))

    assert word in report.of(API, "clock")["message"]
    assert report.status(API, "clock") == ("warning" if seconds else "ok")


# Customers


@pytest.mark.parametrize(
    ("stored", "asked", "style", "status"),
    [
        ("+51999999999", "51 999 999 999", "e164", "ok"),
        ("51999999999", "+51999999999", "digits", "warning"),
        ("51999999999@c.us", "+51999999999", "jid", "warning"),
        ("+5511987654321", "+551187654321", "e164", "warning"),
        ("541123456789@c.us", "+5491123456789", "jid", "warning"),
        ("5215512345678", "+525512345678", "digits", "warning"),
    ],
)
def test_a_customer_is_found_under_any_spelling(
    stored: str, asked: str, style: str, status: str
) -> None:
    """Formats, and the digit that Brazil, Argentina and Mexico add; the setting is named."""
    with ReferenceServer(quirks=["exact_phone"]) as server:
        stored_as(server, stored, subdomain="restaurant", bot_id=BOT)
        report = doctor("--base-url", server.base_url, "--phone", asked)

    assert report.status(CONVERSED, "lookup") == status
    assert report.profile.phone_format == style
    assert report.exit_code == 0


def test_a_customer_who_is_known_by_a_lid_is_found() -> None:
    """A LID has one spelling, so it tells nothing of the server's format."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number="38111222333@lid", subdomain="r", bot_id=BOT)
        report = doctor("--base-url", server.base_url, "--phone", "38111222333@lid")

    assert report.status(CONVERSED, "lookup") == "ok"
    assert "phone_format" not in report.json["seen"]


@pytest.mark.parametrize("expired", [True, False])
def test_a_customer_who_is_not_found_is_told_why(expired: bool) -> None:
    """An expired conversation and none are the same answer, so both are named."""
    with ReferenceServer() as server:
        if expired:
            made = server.create_conversation(phone_number=PHONE, subdomain="r", bot_id=BOT)
            server.expire(made.session_id)
        found = doctor("--base-url", server.base_url, "--phone", PHONE).of(CONVERSED, "lookup")

    assert found["status"] == "failed"
    assert "under any of 3 spellings" in found["message"]
    assert "expired" in found["advice"]
    assert "@lid" in found["advice"]


def test_a_conversation_that_is_told_although_it_expired_is_a_failure() -> None:
    """Other servers keep answering with it."""
    past = conversation(expiresAt="2020-01-01T00:00:00.000Z")
    report = examined(Routes(lookup=answers(past)), "--phone", PHONE)

    assert "expired at 2020-01-01" in report.of(CONVERSED, "open")["message"]
    assert report.exit_code == 1


def test_messages_out_of_order_are_told() -> None:
    """Nobody sees it in a history that is read as it stands."""
    times = ("2026-01-01T12:00:09.000Z", "2026-01-01T12:00:01.000Z")
    messages = [{"role": "user", "content": "Hola", "timestamp": time} for time in times]
    disordered = conversation(context={"previousMessages": messages})
    report = examined(Routes(lookup=answers(disordered)), "--phone", PHONE)

    assert report.status(CONVERSED, "order") == "warning"
    assert "1 of 2 messages" in report.of(CONVERSED, "order")["message"]


def test_a_closed_conversation_is_a_failure() -> None:
    """Nobody is answered in it."""
    closed = conversation(isActive=False)
    report = examined(Routes(lookup=answers(closed)), "--phone", PHONE)

    assert report.failed == [(CONVERSED, "open")]


def test_a_customer_of_another_bot_is_told_so() -> None:
    """With the bot that has the conversation."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE, subdomain="restaurant", bot_id=BOT)
        arguments = ("--base-url", server.base_url, "--phone", PHONE, "--bot-id", "another")
        found = doctor(*arguments).of(CONVERSED, "lookup")

    assert found["status"] == "failed"
    assert BOT in found["message"]


def test_a_bot_id_that_the_server_cannot_read_is_told_so() -> None:
    """Where it answers with 500 instead of 404."""
    with ReferenceServer(quirks=["hex_bot_ids"]) as server:
        server.create_conversation(phone_number=PHONE, subdomain="restaurant", bot_id=BOT)
        arguments = ("--base-url", server.base_url, "--phone", PHONE, "--bot-id", "bot123")
        found = doctor(*arguments).of(CONVERSED, "lookup")

    assert "fails on this bot id" in found["message"]
    assert "24 hex digits" in found["advice"]


def test_a_server_that_fails_on_a_bot_and_else_tells_another_customer_is_a_failure() -> None:
    """Neither answer is of any use."""

    def script(request: Received) -> Iterable[bytes | float | Deed]:
        broken = answers({"type": "3", "message": "", "data": None}, 500)
        other = answers(conversation(userId="+51888888888"))
        return Routes(lookup=broken if "botId" in request.target else other)(request)

    report = examined(script, "--phone", PHONE, "--bot-id", BOT)

    assert report.failed == [(CONVERSED, "lookup")]
    assert "log" in report.of(CONVERSED, "lookup")["advice"]


def test_two_bots_of_one_customer_are_told() -> None:
    """The tenant look-up takes no bot, so it tells the newest one's tenant."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE, subdomain="older", bot_id=BOT)
        server.create_conversation(phone_number=PHONE, subdomain="newer", bot_id="bot2")
        report = doctor("--base-url", server.base_url, "--phone", PHONE, "--bot-id", BOT)

    assert "looked up for newer" in report.of(CONVERSED, "tenant")["message"]


def test_another_customers_conversation_is_a_failure() -> None:
    """Nothing of it is shown."""
    other = conversation(userId="+51888888888")
    report = examined(Routes(lookup=answers(other)), "--phone", PHONE)

    assert report.failed == [(CONVERSED, "lookup")]
    assert "another customer" in report.of(CONVERSED, "lookup")["message"]


@pytest.mark.parametrize(
    ("lookup", "word"),
    [
        (answers({"type": "3"}, 403), "tenant"),
        (answers({"data": {}}), "document"),
        (answers({"type": "3"}, 500), "log"),
        (sends(head(200, content_length=5) + b"..."), "log"),
    ],
)
def test_a_look_up_that_fails_says_where_to_look(lookup: Any, word: str) -> None:
    """By the kind of failure."""
    report = examined(Routes(lookup=lookup), "--phone", PHONE, "--timeout", "1")

    assert report.failed == [(CONVERSED, "lookup")]
    assert word in report.of(CONVERSED, "lookup")["advice"]


def test_what_is_no_phone_number_is_told_so() -> None:
    """Without asking for it."""
    with ReferenceServer() as server:
        report = doctor("--base-url", server.base_url, "--phone", "maria")

    assert report.failed == [(CONVERSED, "lookup")]


# The command


def test_writing_needs_a_customer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before anything is asked."""
    monkeypatch.setattr("sys.argv", ["convsync", "doctor", "--write"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert "--write needs --phone" in capsys.readouterr().err


def test_the_help_says_that_it_writes() -> None:
    """Before anybody writes into a customer's conversation."""
    text = CliRunner().invoke(command_line(), ["doctor", "--help"], env={"COLUMNS": "200"}).output

    assert "WRITES into the conversation" in text
    assert "test customer" in text


@pytest.mark.parametrize(
    ("variable", "status", "word"),
    [
        ("", "skipped", "CONVSYNC_TRANSPORT=aiohttp"),
        ("aiohttp", "ok", "aiohttp"),
        ("requests", "failed", '"httpx" or "aiohttp"'),
    ],
)
def test_what_async_calls_travel_over_is_told(
    variable: str, status: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where aiohttp lies idle, and where the choice is wrong; the rest is looked at as well."""
    monkeypatch.setenv("CONVSYNC_TRANSPORT", variable)
    with ReferenceServer() as server:
        report = doctor("--base-url", server.base_url, "--phone", PHONE)

    found = report.of("transport", "async calls")
    assert found["status"] == status
    assert word in found["message"]
    assert report.status(API, "reachable") == "ok"
