"""WAHA's own API as this package calls it: over real HTTP, in both colours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_convsync._flow import Flow, arun, run
from langchain_convsync.client import Waha
from langchain_convsync.errors import WAHAError
from tests.faulty_server import CLOSE, FaultyServer, answers, sends

CHAT = "51999999999@c.us"
LID = "38000000000001@lid"


def awaited(flow: Flow[Any]) -> Any:
    async def wait() -> Any:
        return await arun(flow)

    return asyncio.run(wait())


Do = Callable[[Flow[Any]], Any]


@pytest.fixture(params=[run, awaited], ids=["sync", "async"])
def do(request: pytest.FixtureRequest) -> Do:
    """Performs a call in one colour."""
    chosen: Do = request.param
    return chosen


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def api(server: FaultyServer) -> Iterator[Waha]:
    opened = Waha(server.url, api_key="waha-secret")
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda api: api.seen("ventas", CHAT, timeout=5.0), "/api/sendSeen"),
        (lambda api: api.typing("ventas", CHAT, on=True, timeout=5.0), "/api/startTyping"),
        (lambda api: api.typing("ventas", CHAT, on=False, timeout=5.0), "/api/stopTyping"),
    ],
    ids=["seen", "starts typing", "stops typing"],
)
def test_a_sign_of_life_is_shown_in_a_chat(
    server: FaultyServer, api: Waha, do: Do, call: Callable[[Waha], Flow[None]], path: str
) -> None:
    """Session and chat stand in the body, the key in a header; what is answered does not matter."""
    server.plays(answers("", status=201))
    do(call(api))

    (request,) = server.received
    assert (request.method, request.target) == ("POST", path)
    assert request.json == {"session": "ventas", "chatId": CHAT}
    assert request.headers["x-api-key"] == "waha-secret"


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ({"lid": LID, "pn": CHAT}, "+51999999999"),
        ({"lid": LID, "pn": None}, None),
        ({"lid": LID, "pn": LID}, None),
        ({"lid": LID, "pn": {"a": 1}}, None),
        ([], None),
        ("no JSON", None),
    ],
)
def test_a_lid_is_looked_up(
    server: FaultyServer, api: Waha, do: Do, told: object, number: str | None
) -> None:
    """Only a phone number is one."""
    server.plays(answers(told))

    assert do(api.lid("ventas", LID, timeout=5.0)) == number
    assert server.received[0].target == "/api/ventas/lids/38000000000001%40lid"


def test_the_last_chats_are_listed(server: FaultyServer, api: Waha, do: Do) -> None:
    """Engines spell their ids in two ways; what is no chat of a person or a group is left out."""
    told = [{"id": CHAT}, {"id": {"_serialized": LID}}, {"id": "1@newsletter"}, {}, "x"]
    server.plays(answers(told))

    assert do(api.chats("ventas", most=20, timeout=5.0)) == [CHAT, LID]
    path, _, query = server.received[0].target.partition("?")
    assert path == "/api/ventas/chats"
    assert query.split("&") == ["limit=20", "sortOrder=desc", "sortBy=conversationTimestamp"]


@pytest.mark.parametrize("script", [answers({}, status=500), sends(CLOSE), answers({})])
def test_chats_that_cannot_be_listed_are_an_error(
    server: FaultyServer, api: Waha, do: Do, script: Any
) -> None:
    """It names nobody."""
    server.plays(script)

    with pytest.raises(WAHAError, match=r"base_url|refused") as error:
        do(api.chats("ventas", most=20, timeout=5.0))
    assert "ventas" not in str(error.value)
