"""Whatever ``convsync doctor`` meets, it names no customer, no key and no word that was said."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from langchain_convsync.cli import command_line
from langchain_convsync.testing import ReferenceServer
from tests.client_calls import conversation
from tests.doctor_runs import Routes
from tests.faulty_server import CLOSE, Deed, FaultyServer, Received, Script, answers, sends

PHONE, LID = "+51944333222", "38111222333444@lid"
SAID, KEY, WAHA_KEY, PASSWORD = "Quiero-una-pizza", "key-5d1c", "waha-77aa", "hunter-2-canary"
CANARIES = ("944333222", "38111222333444", SAID, KEY, WAHA_KEY, PASSWORD)
BOT = "67890abcdef0123456789abc"

#: What a faulty server says: everything it knows.
GOSSIP: dict[str, Any] = {
    "type": "3",
    "message": f"{PHONE} {LID} {KEY} {SAID}",
    "data": {"userId": PHONE, "context": {"lastUserMessage": SAID}},
}
READ = conversation(
    userId=PHONE, sessionId=f"bot_{PHONE}", context={"lastUserMessage": SAID}, botId=PHONE
)
FAULTS: dict[str, Script] = {
    "fine": answers(READ),
    "401": answers(GOSSIP, 401),
    "403": answers(GOSSIP, 403),
    "404": answers(GOSSIP, 404),
    "422": answers(GOSSIP, 422),
    "500": answers(GOSSIP, 500),
    "html": answers(f"<p>{PHONE}</p>", 502, content_type="text/html"),
    "error with 200": answers(GOSSIP),
    "another customer": answers(conversation(userId=LID, sessionId=PHONE)),
    "cut": sends(b"HTTP/1.1 200 OK\r\n", CLOSE),
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSYNC_API_KEY", KEY)
    monkeypatch.setenv("CONVSYNC_WAHA_API_KEY", WAHA_KEY)


def outputs(*arguments: str) -> str:
    """Everything that is printed, for people and for programs."""
    told = ""
    for form in ((), ("--json",)):
        done = CliRunner().invoke(command_line(), ["doctor", *arguments, *form])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        told += done.output
    return told


def assert_no_canary(text: str) -> None:
    assert [canary for canary in CANARIES if canary in text] == [], text


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("customer", [PHONE, LID, "51944333222@c.us"])
def test_no_fault_makes_it_name_a_customer(fault: str, customer: str, tmp_path: Path) -> None:
    """API server, WAHA and store, all of which know everything."""

    def waha(_: Received) -> Iterable[bytes | float | Deed]:
        sessions = [{"name": f"shop {PHONE}", "status": PHONE}, {"name": LID, "status": "WORKING"}]
        return answers(sessions)(_) if fault == "fine" else FAULTS[fault](_)

    with FaultyServer() as api, FaultyServer() as chats:
        api.plays(Routes(lookup=FAULTS[fault]))
        chats.plays(waha)
        text = outputs(
            *("--base-url", api.url, "--phone", customer, "--bot-id", PHONE, "--write"),
            *("--waha-url", chats.url, "--store", f"redis://u:{PASSWORD}@127.0.0.1:1"),
        )

    assert "conversation, lookup" in text
    assert_no_canary(text)


@pytest.mark.parametrize("quirks", [(), ("messages_not_stored",), ("context_replaced",)])
def test_a_trial_names_no_customer(quirks: tuple[str, ...]) -> None:
    """Neither what was said before."""
    with ReferenceServer(quirks=quirks) as server:
        said = [{"role": "user", "content": SAID}]
        server.create_conversation(
            phone_number=PHONE, subdomain="r", bot_id=BOT, context={"previousMessages": said}
        )
        text = outputs("--base-url", server.base_url, "--phone", PHONE, "--write")

    assert "+51•••••••22" in text
    assert_no_canary(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--store", f"u:{PASSWORD}@redis:6379"),
        ("--store", f"reds://u:{PASSWORD}@redis:6379"),
        ("--base-url", f"https://u:{PASSWORD}@api.example.com"),
        ("--waha-url", f"https://u:{PASSWORD}@waha.example.com"),
    ],
)
def test_a_mistyped_url_does_not_show_its_password(arguments: tuple[str, ...]) -> None:
    """It ends up in a ticket."""
    assert_no_canary(outputs(*arguments))
