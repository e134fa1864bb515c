"""Each deviation of the reference server, switched on alone."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from langchain_convsync.cli import main
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import OBSERVED, QUIRKS
from langchain_convsync.settings import ServerProfile
from langchain_convsync.testing import ReferenceServer
from tests.stored_names import stored_as

CUSTOMER, JID = "+51999999999", "51999999999@c.us"
BOT = "67890abcdef0123456789abc"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Quirky(ReferenceServer):
    """A server with one conversation, and raw HTTP to it."""

    def __init__(self, *quirks: str) -> None:
        self.now = NOON
        super().__init__(quirks=quirks, clock=lambda: self.now)

    def begin(self, **state: Any) -> str:
        begun = self.create_conversation(
            phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id=BOT, **state
        )
        return begun.session_id

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        url = f"{self.base_url}{self.profile.prefix}{path}"
        return httpx.request(method, url, json=body, headers=headers, trust_env=False)

    def sync(self, session_id: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return self.ask("PUT", f"/agent/conversations/{session_id}/sync", body, **headers)

    def say(self, session_id: str, text: str, **headers: str) -> httpx.Response:
        path = f"/agent/conversations/{session_id}/messages"
        return self.ask("POST", path, {"role": "user", "content": text}, **headers)

    def lookup(self, name: str = CUSTOMER, query: str = "") -> httpx.Response:
        return self.ask("GET", f"/lookup/conversation/{name}{query}")

    def told_by_waha(self, number: int, text: str) -> None:
        payload = {"id": f"false_{JID}_{number}", "from": JID, "fromMe": False, "body": text}
        metadata = {"subdomain": "restaurant-abc", "bot.id": BOT}
        event = {"event": "message", "session": "s", "metadata": metadata}
        assert self.deliver({**event, "payload": {**payload, "timestamp": 1}})["accepted"]


def texts(server: ReferenceServer, name: str = CUSTOMER) -> list[str]:
    return [message.content for message in server.conversation(name).messages]


def test_without_quirks_the_server_is_the_documented_one() -> None:
    """So is what a client should know of it, besides the keys that it honours."""
    assert ReferenceServer().profile == ServerProfile(idempotency_keys=True)


def test_the_observed_set_is_told_to_clients() -> None:
    """Whoever takes the server's profile works with it."""
    assert ReferenceServer(quirks="observed").profile == ServerProfile(
        prefix="/api/v1/whatsapp-providers",
        phone_format="jid",
        history="sync",
        records_inbound=True,
        context_sync="merge",
        intents=frozenset({"menu", "order", "support", "info", "payment", "delivery", "idle"}),
        history_cap=20,
        idempotency_keys=False,
    )


def test_replacing_the_context_is_a_habit_of_others() -> None:
    """Everything else was seen on one server."""
    assert QUIRKS.keys() - OBSERVED == {"context_replaced"}


def test_an_unknown_quirk_is_refused_with_those_there_are() -> None:
    """A misspelled one would silently test nothing."""
    with pytest.raises(ConfigurationError, match="no such quirk: prefixes; there are prefix"):
        ReferenceServer(quirks={"prefixes"})


@pytest.mark.parametrize("spelling", ["prefixes", "observed,prefixes", "prefix, prefixes"])
def test_the_command_line_takes_a_comma_list(
    spelling: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says which of its names is none."""
    monkeypatch.setattr(sys, "argv", ["convsync", "serve", "--quirks", spelling])

    with pytest.raises(SystemExit, match="2"):
        main()

    assert "no such quirk: prefixes; there are prefix" in capsys.readouterr().err


def test_prefix_moves_the_endpoints_and_answers_html_elsewhere() -> None:
    """The documented path, unknown paths and wrong methods are all no JSON."""
    with Quirky("prefix") as server:
        server.begin()
        documented = f"{server.base_url}/api/v1/whatsapp/lookup/tenant/{CUSTOMER}"

        elsewhere = httpx.get(documented, trust_env=False)
        unknown = server.ask("GET", "/nothing")
        wrong = server.ask("POST", f"/lookup/tenant/{CUSTOMER}")

        assert server.lookup().status_code == 200
        for answer in (elsewhere, unknown, wrong):
            assert answer.status_code == 404
            assert answer.headers["Content-Type"].startswith("text/html")


def test_exact_phone_finds_what_was_written_and_nothing_else() -> None:
    """No other spelling, no chat id."""
    with Quirky("exact_phone") as server:
        stored_as(server, CUSTOMER)

        found = [
            server.lookup(name).status_code
            for name in (CUSTOMER, "51999999999", "+51 999999999", JID)
        ]

    assert found == [200, 404, 404, 404]


@pytest.mark.parametrize("asked", [CUSTOMER, JID, "0051 999-999-999", "51999999999", "7@lid"])
@pytest.mark.parametrize("quirks", [(), ("observed",), *((name,) for name in QUIRKS)])
def test_what_is_created_is_found_with_the_servers_own_profile(
    quirks: tuple[str, ...], asked: str
) -> None:
    """Whatever the server does with phone numbers, and however this one is spelled."""
    with ReferenceServer(quirks=quirks) as server, server.client() as client:
        created = server.create_conversation(phone_number=asked, subdomain="abc", bot_id=BOT)

        for name in (asked, created.user_id):
            assert client.lookup_tenant(name).session_id == created.session_id
            assert client.get_conversation(name, BOT).session_id == created.session_id
            assert server.conversation(name, BOT).session_id == created.session_id


def test_exact_phone_stores_what_waha_brings_under_its_chat_id() -> None:
    """And finds that conversation again at the next message."""
    with Quirky("exact_phone") as server:
        server.told_by_waha(1, "hola")
        first = server.lookup(JID).json()["data"]
        server.told_by_waha(2, "¿hola?")

        assert first["userId"] == JID
        assert server.lookup(JID).json()["data"]["sessionId"] == first["sessionId"]
        assert server.lookup(CUSTOMER).status_code == 404


def test_bare_start_leaves_out_what_is_empty() -> None:
    """Until something is in it."""
    with Quirky("bare_start") as server:
        session_id = server.begin()
        fresh = server.lookup().json()["data"]
        server.sync(session_id, {"context": {"a": 1}, "metadata": {"b": 2}})
        later = server.lookup().json()["data"]

    assert fresh.keys().isdisjoint({"context", "metadata", "previousIntent", "previousStep"})
    assert (later["context"], later["metadata"]) == ({"a": 1}, {"b": 2})


def test_whole_answers_hold_the_whole_document() -> None:
    """To a sync and to a message alike."""
    with Quirky("whole_answers") as server:
        session_id = server.begin()

        synced = server.sync(session_id, {"step": "x", "isActive": True}).json()["data"]
        said = server.say(session_id, "hola").json()["data"]

        assert synced.keys() == said.keys() == server.lookup().json()["data"].keys()


@pytest.mark.parametrize(("quirks", "open_again"), [((), False), (("sync_reopens",), True)])
def test_sync_reopens_a_closed_conversation(quirks: tuple[str, ...], open_again: bool) -> None:
    """Where isActive is left out."""
    with Quirky(*quirks) as server:
        session_id = server.begin()
        server.sync(session_id, {"isActive": False})

        server.sync(session_id, {"step": "x"})

        assert server.conversation(CUSTOMER).is_active is open_again


def test_intent_enum_fails_on_other_intents_and_stores_nothing() -> None:
    """Not even the rest of the sync."""
    with Quirky("intent_enum") as server:
        session_id = server.begin()

        failed = server.sync(session_id, {"intent": "checkout", "step": "x"})

        assert (failed.status_code, failed.json()["type"]) == (500, "3")
        assert server.conversation(CUSTOMER).current_step == "initial"
        assert server.sync(session_id, {"intent": "menu"}).status_code == 200


@pytest.mark.parametrize(("quirks", "previous"), [((), "idle"), (("intent_repeats",), "menu")])
def test_intent_repeats_makes_a_retry_visible(quirks: tuple[str, ...], previous: str) -> None:
    """The same sync twice is not neutral."""
    with Quirky(*quirks) as server:
        session_id = server.begin()

        for _ in range(2):
            server.sync(session_id, {"intent": "menu"})

        assert server.conversation(CUSTOMER).previous_intent == previous


def test_last_20_drops_the_oldest_messages_but_none_of_a_sync() -> None:
    """A history that a sync brings is taken as it is."""
    entries = [{"role": "user", "content": str(number)} for number in range(25)]
    with Quirky("last_20") as server:
        session_id = server.begin()
        for number in range(22):
            server.say(session_id, str(number))
        capped = texts(server)

        server.sync(session_id, {"context": {"previousMessages": entries}})

        assert capped == [str(number) for number in range(2, 22)]
        assert len(texts(server)) == 25


def test_messages_not_stored_echoes_what_it_forgets() -> None:
    """The first message of a bare conversation is kept, later ones only seem to be."""
    with Quirky("messages_not_stored") as server:
        session_id = server.begin()
        server.say(session_id, "one")

        echoed = server.say(session_id, "two").json()["data"]["context"]

        assert [entry["content"] for entry in echoed["previousMessages"]] == ["one", "two"]
        assert echoed["lastUserMessage"] == "two"
        assert texts(server) == ["one"]
        assert server.conversation(CUSTOMER).context["lastUserMessage"] == "one"


@pytest.mark.parametrize(("quirks", "status"), [((), 404), (("fixed_expiry",), 200)])
def test_fixed_expiry_neither_prolongs_nor_protects(quirks: tuple[str, ...], status: int) -> None:
    """Agents' writes do not count as life, and reach the dead too."""
    with Quirky(*quirks) as server:
        session_id = server.begin()
        server.now += timedelta(hours=23)
        server.say(session_id, "hola")
        server.now += timedelta(hours=2 if quirks else 25)

        assert server.lookup().status_code == 404
        assert server.say(session_id, "¿hola?").status_code == status


def test_fixed_expiry_is_prolonged_by_the_customer() -> None:
    """WAHA's events count."""
    with Quirky("fixed_expiry") as server:
        server.begin()
        server.now += timedelta(hours=23)
        server.told_by_waha(1, "hola")
        server.now += timedelta(hours=2)

        assert server.lookup().status_code == 200


def test_hex_bot_ids_fails_on_others() -> None:
    """In either case of the letters."""
    with Quirky("hex_bot_ids") as server:
        server.begin()

        asked = [server.lookup(query=f"?botId={bot}") for bot in ("bot123", BOT, BOT.upper())]

    assert [answer.status_code for answer in asked] == [500, 200, 200]


@pytest.mark.parametrize(
    ("quirks", "kept"),
    [
        ((), []),
        (("records_inbound",), ["hola", "¿hola?"]),
        (("records_inbound", "messages_not_stored"), ["hola"]),
        (("observed",), ["hola"]),
    ],
)
def test_records_inbound_keeps_the_customers_words(
    quirks: tuple[str, ...], kept: list[str]
) -> None:
    """The documented flow leaves that to the agent; what forgets messages forgets these, too."""
    with Quirky(*quirks) as server:
        server.told_by_waha(1, "hola")
        server.told_by_waha(2, "¿hola?")
        found = server.conversation(JID if "observed" in quirks else CUSTOMER)

        assert [message.content for message in found.messages] == kept


def test_keys_ignored_applies_a_repeated_request_again() -> None:
    """The document does not know the header."""
    with Quirky("keys_ignored") as server:
        session_id = server.begin()

        for _ in range(2):
            server.say(session_id, "hola", **{"Idempotency-Key": "k"})

        assert texts(server) == ["hola", "hola"]


def test_context_replaced_forgets_what_a_sync_does_not_name() -> None:
    """The history too; a sync without context leaves everything."""
    with Quirky("context_replaced") as server:
        session_id = server.begin(context={"a": 1})
        server.say(session_id, "hola")
        server.sync(session_id, {"step": "x"})
        untouched = server.conversation(CUSTOMER).context

        server.sync(session_id, {"context": {"b": 2}})

        assert (untouched["a"], untouched["lastUserMessage"]) == (1, "hola")
        assert server.conversation(CUSTOMER).context == {"previousMessages": [], "b": 2}
