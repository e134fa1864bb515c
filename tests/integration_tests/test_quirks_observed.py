"""The quirky reference server answers as a public server was seen to answer.

The recording is replayed in its order, scene by scene, each on a server of its own. Status, content
type, envelope and data must be alike; ids, timestamps and the fields of the other server's database
(``_id``, ``__v``, ``orderHistory``) are not compared, and an empty history is no history.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from langchain_convsync.testing import ReferenceServer
from tests.stored_names import stored_as

OBSERVED = Path(__file__).parents[1] / "observed" / "api-server.json"
PAIRS: list[dict[str, Any]] = json.loads(OBSERVED.read_text(encoding="utf-8"))["pairs"]

BOT, OTHER_BOT = "67890abcdef0123456789abc", "a" * 24
CUSTOMER = "+51999999999"
DOCUMENTED, REAL = "/api/v1/whatsapp/", "/api/v1/whatsapp-providers/"
JSON = {"Content-Type": "application/json"}

#: What is not compared, and why.
LEFT_OUT = {
    "A11 phone with encoded slash": "a slash ends a path segment here; clients refuse to ask",
    "A13 trailing slash": "paths are exact here",
    "B8 repeated botId": "the document knows one botId",
    "C8 context null": "null is no object here",
    "C9 previousMessages in context": "an entry without content is refused here",
    "C9b lookup after": "follows C9",
    "C12 isActive null": "null is no boolean here",
    "C12b lookup after": "follows C12",
    'C13 isActive "false"': "text is no boolean here",
    'C14 isActive "maybe"': "refused with 400 here",
    "C19 no body, no content-type": "a body is required here",
    "C22 JSON array": "a body is an object here",
    "C17 intent empty string": "it is an unknown intent here, not a missing one",
    "C23 text/plain body": "a body is JSON here",
    "C24 no content-type, JSON body": "a body is named JSON here",
    "C25 urlencoded": "a body is JSON here",
    "C34 subDomain/botId/userId in body": "unknown fields are refused here",
    "D8 content 5": "content is text here",
    "D9 content object": "content is text here",
    "E11 message 1 after resetContext": "no endpoint of the document resets a context",
    "E11 message 2 after resetContext": "no endpoint of the document resets a context",
    "E11 message 3 after resetContext": "no endpoint of the document resets a context",
    "G health at documented path": "another service answers there",
    "H1 webhook message": "its webhook needs a live WAHA",
    "H5 conversation JID": "its webhook answers by itself and moves the step",
}

#: Syncs that happened before a request and are not in the recording, or left out above.
BEFORE: dict[str, list[dict[str, Any]]] = {
    "C5 metadata merge": [{"context": {"orderTotal": None}}],
    "C16 unknown intent": [{"step": "again"}],
    "C29 dotted / $ keys in context": [
        {"intent": "menu", "step": "u"},
        {"step": "5", "context": {"0": "a", "1": "b", "2": "c"}},
    ],
    "C35 utf-8": [{"intent": "order", "step": "one"}] * 2,
}

NOT_COMPARED = {"sessionId", "lastActivity", "expiresAt", "createdAt", "updatedAt", "timestamp"}
NOT_COMPARED |= {"_id", "__v", "orderHistory"}


@dataclass
class Stage:
    """A server, and the session that the recorded paths mean."""

    server: ReferenceServer
    session_id: str = ""
    answers: dict[str, httpx.Response] = field(default_factory=dict)

    def customer(self, phone_number: str = CUSTOMER, bot: str = BOT, tenant: str = "abc") -> str:
        return stored_as(self.server, phone_number, subdomain=f"restaurant-{tenant}", bot_id=bot)

    def sync(self, body: dict[str, Any], session_id: str | None = None) -> None:
        path = f"{REAL}agent/conversations/{session_id or self.session_id}/sync"
        httpx.put(self.server.base_url + path, json=body, trust_env=False).raise_for_status()

    def play(self, pair: dict[str, Any]) -> None:
        for body in BEFORE.get(pair["case"], ()):
            self.sync(body)
        request, path = pair["request"], self.path(pair)
        body = request["body"]
        content = body if isinstance(body, str) else None if body is None else json.dumps(body)
        self.answers[pair["case"]] = httpx.request(
            request["method"],
            self.server.base_url + path,
            content=content,
            headers=JSON if content is not None else None,
            trust_env=False,
        )

    def path(self, pair: dict[str, Any]) -> str:
        path: str = pair["request"]["path"]
        if not pair["case"].endswith("at documented path"):
            path = path.replace(DOCUMENTED, REAL, 1)
        before, marker, rest = path.partition("agent/conversations/")
        recorded, slash, operation = rest.partition("/")
        if not marker or recorded == "nope_1":
            return path
        return f"{before}{marker}{self.session_id}{slash}{operation}"


def lookups(stage: Stage) -> None:
    stage.session_id = stage.customer()
    stage.customer("51888888888@c.us")


def with_two_bots(stage: Stage) -> None:
    lookups(stage)
    stage.customer(bot=OTHER_BOT, tenant="xyz")


def older_bot_again(stage: Stage) -> None:
    with_two_bots(stage)
    stage.sync({})


def one_customer(stage: Stage) -> None:
    stage.session_id = stage.customer()


def expired(stage: Stage) -> None:
    one_customer(stage)
    stage.server.expire(stage.session_id)


def purged(stage: Stage) -> None:
    stage.session_id = "purged_1"


def brought_by_waha(stage: Stage) -> None:
    payload = {"id": "false_51777777777@c.us_1", "from": "51777777777@c.us", "fromMe": False}
    event = {
        "event": "message",
        "session": "sess1",
        "metadata": {"subdomain": "restaurant-abc", "bot.id": "6b0348163509311bb7f7c4b5"},
        "payload": {**payload, "body": "hola", "timestamp": 1795377174},
    }
    assert stage.server.deliver(event)["accepted"]


Scene: TypeAlias = tuple[Callable[[Stage], None], Callable[[int, str], bool]]

SCENES: list[Scene] = [
    (lookups, lambda at, _: at <= 13 or at == 16),
    (with_two_bots, lambda at, _: at == 14),
    (older_bot_again, lambda at, _: at == 15 or 17 <= at <= 27),
    (one_customer, lambda _, case: case.startswith("C")),
    (one_customer, lambda _, case: case.startswith("D")),
    (expired, lambda _, case: case.startswith(("E1 ", "E2", "E3", "E4", "E5"))),
    (purged, lambda _, case: case.startswith(("E7", "E8"))),
    (one_customer, lambda _, case: case.startswith("G")),
    (brought_by_waha, lambda _, case: case.startswith("H")),
]


@pytest.fixture(scope="module")
def answers() -> dict[str, httpx.Response]:
    """What the quirky server answered, by case."""
    told: dict[str, httpx.Response] = {}
    for prepare, belongs in SCENES:
        with ReferenceServer(quirks="observed") as server:
            stage = Stage(server, answers=told)
            prepare(stage)
            for place, pair in enumerate(PAIRS):
                if belongs(place, pair["case"]) and pair["case"] not in LEFT_OUT:
                    stage.play(pair)
    return told


def compared(value: Any) -> Any:
    """The part of the data that another server can have in common."""
    if isinstance(value, list):
        return [compared(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: compared(item)
        for key, item in value.items()
        if key not in NOT_COMPARED and (key, item) != ("previousMessages", [])
    }


COMPARED = [pair for pair in PAIRS if pair["case"] not in LEFT_OUT]


@pytest.mark.parametrize("pair", [pytest.param(pair, id=pair["case"]) for pair in COMPARED])
def test_it_answers_as_the_observed_server(
    pair: dict[str, Any], answers: dict[str, httpx.Response]
) -> None:
    """Same status, same envelope, same data."""
    answer, seen = answers[pair["case"]], pair["response"]

    assert answer.status_code == seen["status"], answer.text
    assert answer.headers["Content-Type"].split(";")[0] == seen["content_type"].split(";")[0]
    if isinstance(seen["body"], dict):
        body = answer.json()
        assert body["type"] == seen["body"]["type"]
        assert compared(body["data"]) == compared(seen["body"]["data"])


def test_what_is_left_out_was_recorded() -> None:
    """Names that nobody uses would hide a mistake; most of the recording is compared."""
    assert LEFT_OUT.keys() | BEFORE.keys() <= {pair["case"] for pair in PAIRS}
    assert len(COMPARED) > 3 * len(LEFT_OUT)
