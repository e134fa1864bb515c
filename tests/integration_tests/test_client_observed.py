"""Answers of a public server that implements the document in its own way, replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from langchain_convsync._flow import Flow
from langchain_convsync.client import Api
from langchain_convsync.errors import (
    AuthenticationError,
    BadRequestError,
    ConversationNotFoundError,
    NotFoundError,
    ServerError,
)
from tests.faulty_server import FaultyServer, Perform, answers, sync_and_async

OBSERVED = Path(__file__).parents[1] / "observed" / "api-server.json"
PAIRS: list[dict[str, Any]] = json.loads(OBSERVED.read_text(encoding="utf-8"))["pairs"]

#: Phone numbers that this client refuses to ask for.
REFUSED = {"A4 double encoded %252B", "A11 phone with encoded slash"}

OURS = {
    ("GET", "tenant"),
    ("GET", "conversation"),
    ("PUT", "sync"),
    ("POST", "messages"),
    ("GET", "health"),
}


def kind_of(pair: dict[str, Any]) -> str:
    """Which of our calls a request is: the last or the second last part of its path."""
    parts = urlsplit(pair["request"]["path"]).path.strip("/").split("/")
    return next((part for part in parts[-1:-3:-1] if (pair["request"]["method"], part) in OURS), "")


def asked(api: Api, pair: dict[str, Any]) -> Flow[Any]:
    """The call that makes a request of this kind for the same customer, bot or session."""
    kind, url = kind_of(pair), urlsplit(pair["request"]["path"])
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    bot_id = parse_qs(url.query).get("botId", [None])[0]
    if kind == "tenant":
        return api.lookup_tenant(parts[-1])
    if kind == "conversation":
        return api.get_conversation(parts[-1], bot_id)
    if kind == "sync":
        return api.sync_conversation(parts[-2], {"step": "initial"})
    if kind == "messages":
        return api.add_message(parts[-2], "user", "Hola")
    return api.health()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def api(server: FaultyServer) -> Iterator[Api]:
    built = Api(server.url, max_retries=0)
    yield built
    built.close()


def replay(server: FaultyServer, pair: dict[str, Any]) -> None:
    seen = pair["response"]
    server.plays(answers(seen["body"], seen["status"], content_type=seen["content_type"]))


def chosen(*statuses: int) -> list[Any]:
    return [
        pytest.param(pair, id=pair["case"])
        for pair in PAIRS
        if pair["response"]["status"] in statuses and kind_of(pair) and pair["case"] not in REFUSED
    ]


@sync_and_async
@pytest.mark.parametrize("pair", chosen(200))
def test_every_success_is_accepted(
    pair: dict[str, Any], api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """No context, no metadata, whole documents, odd messages: nothing that was seen is refused."""
    replay(server, pair)

    found = perform(asked(api, pair))

    if found is not True:
        kept = json.loads(found.model_dump_json(by_alias=True))
        assert pair["response"]["body"]["data"].keys() <= kept.keys()
        assert found.session_id == pair["response"]["body"]["data"]["sessionId"]


@sync_and_async
@pytest.mark.parametrize("pair", chosen(400, 401, 404, 500))
def test_every_error_has_its_place_in_the_tree(
    pair: dict[str, Any], api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """And none repeats what the server said: its messages hold ids and values."""
    replay(server, pair)
    status, is_json = pair["response"]["status"], "json" in pair["response"]["content_type"]
    expected = {
        400: BadRequestError,
        401: AuthenticationError,
        404: ConversationNotFoundError if is_json else NotFoundError,
        500: ServerError,
    }[status]

    with pytest.raises(expected) as told:
        perform(asked(api, pair))

    assert type(told.value) is expected
    assert told.value.status_code == status
    body = pair["response"]["body"]
    said = body if isinstance(body, str) else body.get("message") or body["error"]
    assert said not in str(told.value)


def test_the_recording_holds_every_kind_of_answer() -> None:
    """The replays above are not empty by mistake."""
    assert len(chosen(200)) > 50
    assert len(chosen(400, 401, 404, 500)) > 30
