"""WAHA's own API as this package calls it: over real HTTP, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_convsync import WAHAReply
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync.client import AsyncWAHAClient, Waha, WAHAClient, WahaSession
from langchain_convsync.errors import ClosedError, ConfigurationError, WAHAError
from tests import waha_chats
from tests.faulty_server import CLOSE, FaultyServer, answers, head, sends
from tests.waha_chats import WahaChats

CHAT = "51999999999@c.us"
LID = "38000000000001@lid"


def awaited(flow: Flow[Any]) -> Any:
    async def wait() -> Any:
        return await arun(flow)

    return asyncio.run(wait())


Do = Callable[[Flow[Any]], Any]
chats = waha_chats.chats


@pytest.fixture(params=[run, awaited], ids=["sync", "async"])
def do(request: pytest.FixtureRequest) -> Do:
    """Performs a call sync or async."""
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


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/sendText", "/dashboard", "/bot/api"])
@pytest.mark.parametrize("make", [WAHAClient, AsyncWAHAClient, WAHAReply])
def test_a_url_of_a_call_is_no_base_url(make: Callable[[str], object], path: str) -> None:
    """Each reply would become a dead letter; what to pass instead is told."""
    pass_this = f"https://waha.example.com{path.partition('/api')[0].partition('/dash')[0]}"

    with pytest.raises(ConfigurationError, match=rf"goes without /.*: pass {pass_this}$"):
        make(f"https://waha.example.com{path}")


def test_waha_may_be_below_a_path() -> None:
    """Of a proxy in front of it."""
    assert WAHAClient("https://example.com/waha/").waha.base_url == "https://example.com/waha"


@pytest.mark.parametrize(
    "body", ["<h1>Not Found</h1>", '{"statusCode": 404, "message": "Cannot POST /x/api/sendText"}']
)
def test_a_path_that_waha_does_not_know_is_told(
    server: FaultyServer, api: Waha, do: Do, body: str
) -> None:
    """Neither the key nor the session is to blame."""
    server.plays(answers(body, status=404))

    with pytest.raises(WAHAError, match=r"no WAHA at base_url.*without /api"):
        do(api.send_text("ventas", CHAT, "Hola", timeout=5.0))


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


class Awaited:
    """An async client, called as the blocking one is: every call on an event loop of its own."""

    def __init__(self, *where: Any, **settings: Any) -> None:
        self._client = AsyncWAHAClient(*where, **settings)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, "aclose" if name == "close" else name)

        def call(*given: Any, **named: Any) -> Any:
            async def wait() -> Any:
                return await method(*given, **named)

            return asyncio.run(wait())

        return call


Open = Callable[..., Any]


@pytest.fixture(params=[WAHAClient, Awaited], ids=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens a client, sync or async."""
    chosen: Open = request.param
    return chosen


def test_a_client_does_in_chats_what_it_is_told(chats: WahaChats, opened: Open) -> None:
    """A text that was sent stands in the chat, under the id that sending it told."""
    chats.numbers[LID] = CHAT
    client = opened(chats.url, api_key="waha-secret")

    client.seen("ventas", CHAT)
    client.typing("ventas", CHAT)
    client.typing("ventas", CHAT, on=False)
    sent = client.send_text("ventas", CHAT, "Hola 👋")
    (message,) = client.messages("ventas", CHAT)
    number = client.phone_number("ventas", LID)
    client.close()

    assert [deed for deed, _ in chats.posts] == [
        "sendSeen",
        "startTyping",
        "stopTyping",
        "sendText",
    ]
    assert chats.sent == [("ventas", CHAT, "Hola 👋")]
    assert (message.id, message.text, message.own) == (sent, "Hola 👋", True)
    assert number == "+51999999999"
    assert chats.keys == {"waha-secret"}


@pytest.mark.parametrize("own_only", [False, True])
def test_a_chat_is_read_with_the_customer_s_words_unless_told_otherwise(
    server: FaultyServer, opened: Open, own_only: bool
) -> None:
    """Who wrote what is told; WAHA filters where it is asked to."""
    told = [{"id": f"false_{CHAT}_A1", "body": "Hola", "timestamp": 1700000000, "fromMe": False}]
    server.plays(answers(told))
    client = opened(server.url)

    (message,) = client.messages("ventas", CHAT, most=7, own_only=own_only)
    client.close()

    assert (message.id, message.text, message.own) == ("A1", "Hola", False)
    assert message.sent_at.timestamp() == 1700000000
    query = server.received[0].target.partition("?")[2].split("&")
    assert "limit=7" in query
    assert ("filter.fromMe=true" in query) is own_only


def test_sessions_and_chats_are_listed(server: FaultyServer, opened: Open) -> None:
    """A hundred chats, unless told otherwise; stopped sessions too."""
    client = opened(server.url)
    server.plays(answers([{"id": CHAT}]))
    assert client.chats("ventas") == [CHAT]
    server.plays(answers([{"name": "ventas", "status": "WORKING"}]))
    assert client.sessions() == [WahaSession("ventas", "WORKING")]
    client.close()

    chats, sessions = (request.target for request in server.received)
    assert "limit=100" in chats
    assert sessions == "/api/sessions?all=true"


def test_a_text_whose_answer_was_lost_is_not_sent_again(chats: WahaChats, opened: Open) -> None:
    """WAHA knows no idempotency keys: the caller is told that nobody knows, and of nobody."""
    chats.fates.append(chats.lost)
    client = opened(chats.url)

    with pytest.raises(WAHAError) as error:
        client.send_text("ventas", CHAT, "Hola")
    client.close()

    assert chats.texts == ["Hola"]
    assert error.value.ambiguous
    assert not any(word in str(error.value) for word in ("ventas", CHAT, "Hola"))


@pytest.mark.parametrize(
    "script",
    [
        answers("<html>We will be back</html>", content_type="text/html"),
        answers(b'{"id": "true_5', status=201),
        sends(head(201, content_length=99) + b'{"id"', CLOSE),
    ],
    ids=["a page", "truncated", "cut off"],
)
def test_a_text_that_something_else_answers_may_have_been_sent(
    server: FaultyServer, opened: Open, script: Any
) -> None:
    """A 2xx without WAHA's words is no proof."""
    server.plays(script)
    client = opened(server.url)

    with pytest.raises(WAHAError) as error:
        client.send_text("ventas", CHAT, "Hola")
    client.close()

    assert (error.value.ambiguous, error.value.foreign) == (True, True)


@pytest.mark.parametrize(
    ("body", "status", "foreign"),
    [
        ("<html>", 403, True),
        ("", 404, True),
        ({"message": "Unauthorized"}, 401, False),
        ("<html>", 413, False),
    ],
)
def test_a_refusal_is_waha_s_own_if_it_is_json(
    server: FaultyServer, opened: Open, body: Any, status: int, foreign: bool
) -> None:
    """Another one says nothing of the text; one that is too large stays so."""
    server.plays(answers(body, status))
    client = opened(server.url)

    with pytest.raises(WAHAError) as error:
        client.send_text("ventas", CHAT, "Hola")
    client.close()

    assert (error.value.ambiguous, error.value.foreign) == (False, foreign)


def test_a_closed_client_says_so(chats: WahaChats, opened: Open) -> None:
    """Nothing is sent any more."""
    client = opened(chats.url)
    client.close()

    with pytest.raises(ClosedError):
        client.send_text("ventas", CHAT, "Hola")
    assert chats.sent == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_of_a_call_is_a_positive_number_of_seconds(
    chats: WahaChats, opened: Open, timeout: float
) -> None:
    """A call always ends."""
    client = opened(chats.url)

    with pytest.raises(ConfigurationError, match="timeout"):
        client.send_text("ventas", CHAT, "Hola", timeout=timeout)
    client.close()
    assert chats.sent == []


async def test_clients_close_at_the_end_of_their_block(chats: WahaChats) -> None:
    """In sync and async."""
    async with AsyncWAHAClient(chats.url) as awaited_one:
        await awaited_one.seen("ventas", CHAT)
    with WAHAClient(chats.url) as blocking_one:
        await asyncio.to_thread(blocking_one.seen, "ventas", CHAT)

    with pytest.raises(ClosedError):
        await awaited_one.seen("ventas", CHAT)
    with pytest.raises(ClosedError):
        blocking_one.seen("ventas", CHAT)
    assert len(chats.posts) == 2
