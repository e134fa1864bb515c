"""A lent httpx client: used as it is, never closed, and its log tells no phone number."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import httpx_aiohttp
import pytest

from langchain_convsync import WAHAReply
from langchain_convsync._flow import arun, run
from langchain_convsync.client import Api, AsyncConvSyncClient, ConvSyncClient, Pace, WAHAClient
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClosedError,
    ConfigurationError,
    ConversationNotFoundError,
    ConvSyncError,
    InvalidResponseError,
    NotFoundError,
    RateLimitError,
    ServerError,
)
from tests.client_calls import (
    CONVERSATION,
    PHONE,
    WHOLE,
    assert_says_nothing_private,
    every_call,
    post,
    read,
)
from tests.faulty_server import CLOSE, HANG, FaultyServer, Received, answers, head, sends, trickles

#: Performs one call of an Api that borrows an httpx client, sync or async.
Lent = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.plays(answers(CONVERSATION))
        yield running


def blocking(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    with httpx.Client(**settings) as lent:
        api = Api(server.url, http_client=lent, timeout=timeout, max_retries=0)
        try:
            return run(call(api))
        finally:
            api.close()
            assert not lent.is_closed


def awaited(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    async def main() -> Any:
        async with httpx.AsyncClient(**settings) as lent:
            api = Api(server.url, http_client=lent, timeout=timeout, max_retries=0)
            try:
                return await arun(call(api))
            finally:
                await api.aclose()
                assert not lent.is_closed

    return asyncio.run(main())


def over_aiohttp(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    return awaited(server, call, timeout, transport=httpx_aiohttp.AiohttpTransport(), **settings)


def on_a_thread(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    """A blocking client under an awaited call."""
    with httpx.Client(**settings) as lent:
        api = Api(server.url, http_client=lent, timeout=timeout, max_retries=0)
        return asyncio.run(arun(call(api)))


every_loan = pytest.mark.parametrize("lent", [blocking, awaited, on_a_thread, over_aiohttp])


@contextmanager
def log_of(name: str, level: int) -> Iterator[list[str]]:
    """Everything that a library logs meanwhile."""
    told: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, ear = logging.getLogger(name), Ear()
    before = logger.level
    logger.addHandler(ear)
    logger.setLevel(level)
    try:
        yield told
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before)


@every_loan
@every_call
def test_a_lent_client_sends_the_request(call: Any, lent: Lent, server: FaultyServer) -> None:
    """With its own headers, and ours on top."""
    found = lent(server, call, headers={"X-Trace": "t-1", "Accept-Encoding": "br"})

    assert found.bot_id == "bot123"
    assert server.received[0].headers["x-trace"] == "t-1"
    assert server.received[0].headers["accept-encoding"] == "gzip"


@every_loan
@every_call
def test_its_log_tells_no_phone_number_and_no_session(
    call: Any, lent: Lent, server: FaultyServer
) -> None:
    """Every URL is logged at INFO by httpx; of ours, host and status remain."""
    with log_of("httpx", logging.DEBUG) as told:
        lent(server, call)

    assert len(told) == 1
    assert "http://127.0.0.1/…" in told[0]
    assert "200" in told[0]
    assert "999999999" not in told[0]


def test_its_own_requests_are_logged_as_ever(server: FaultyServer) -> None:
    """Only ours are redacted."""
    with httpx.Client() as lent, log_of("httpx", logging.INFO) as told:
        run(read(Api(server.url, http_client=lent)))
        lent.get(f"{server.url}/mine")

    assert "/mine" in told[1]


def test_our_own_connections_log_no_phone_number(server: FaultyServer) -> None:
    """Neither httpx at all, nor httpcore at its most talkative."""
    api = Api(server.url)
    with log_of("httpx", logging.DEBUG) as httpx_told, log_of("httpcore", logging.DEBUG) as told:
        run(read(api))
        asyncio.run(arun(read(api)))
    api.close()

    assert httpx_told == []
    assert told
    assert "999999999" not in " ".join(told)


@every_loan
@every_call
def test_a_redirect_is_not_followed_even_if_the_client_would(
    call: Any, lent: Lent, server: FaultyServer
) -> None:
    """A 307 would repeat a write and carry the key along."""
    server.plays(answers({}, 307, location=f"{server.url}/elsewhere"))

    with pytest.raises(APIStatusError, match="redirects"):
        lent(server, call, follow_redirects=True)

    assert len(server.received) == 1


@every_loan
@every_call
def test_a_connection_that_breaks_leaves_a_write_ambiguous(
    call: Any, lent: Lent, server: FaultyServer
) -> None:
    """Also where another transport calls it by another name."""
    server.plays(sends(CLOSE))

    with pytest.raises(APIConnectionError) as told:
        lent(server, call)

    assert told.value.ambiguous is (call is not read)
    assert_says_nothing_private(told.value)


@every_loan
def test_a_server_that_is_down_surely_applied_nothing(lent: Lent, server: FaultyServer) -> None:
    """Refused connections are recognised."""
    with FaultyServer() as gone:
        pass

    with pytest.raises(APIConnectionError) as told:
        lent(gone, post)

    assert not told.value.ambiguous
    assert_says_nothing_private(told.value)


@every_loan
@pytest.mark.parametrize(
    "script",
    [
        sends(HANG),
        sends(
            head(transfer_encoding="chunked"),
            *(part for _ in range(99) for part in (b"1\r\n \r\n", 0.02)),
        ),
    ],
    ids=["silence", "a trickling body"],
)
def test_a_deadline_holds_for_a_lent_client(script: Any, lent: Lent, server: FaultyServer) -> None:
    """Silence and trickling bodies end in time."""
    server.plays(script)

    with pytest.raises(APITimeoutError):
        lent(server, post, timeout=0.1)


@pytest.mark.parametrize("lent", [awaited, over_aiohttp])
def test_an_awaited_deadline_is_exact(lent: Lent, server: FaultyServer) -> None:
    """Trickling headers, too: the exchange is cancelled."""
    server.plays(trickles(WHOLE))

    with pytest.raises(APITimeoutError) as told:
        lent(server, post, timeout=0.1)

    assert told.value.ambiguous


@pytest.mark.parametrize("lent", [blocking, on_a_thread])
def test_a_hook_may_read_the_answer(lent: Lent, server: FaultyServer) -> None:
    """As logging hooks do."""
    found = lent(server, read, event_hooks={"response": [lambda response: response.read()]})

    assert found.bot_id == "bot123"


def test_a_client_that_its_owner_closed_is_told_apart(server: FaultyServer) -> None:
    """From ours being closed."""
    lent = httpx.Client()
    lent.close()

    with pytest.raises(ClosedError, match="http_client"):
        run(read(Api(server.url, http_client=lent)))


async def test_an_async_client_that_its_owner_closed_is_told_apart(server: FaultyServer) -> None:
    """From ours being closed."""
    lent = httpx.AsyncClient()
    await lent.aclose()

    with pytest.raises(ClosedError, match="http_client"):
        await arun(read(Api(server.url, http_client=lent)))


def test_closing_ours_leaves_the_lent_one_open(server: FaultyServer) -> None:
    """And ours is closed all the same."""
    with httpx.Client() as lent:
        with ConvSyncClient(server.url, http_client=lent) as client:
            client.get_conversation(PHONE)

        assert lent.get(server.url).status_code == 200
        with pytest.raises(ConvSyncError, match="closed"):
            client.get_conversation(PHONE)


# Hooks, auth and transports that are the caller's code


class CompanyError(Exception):
    """What a company's own hook raises."""


class Shouting:
    """Hooks that raise as httpx's documentation has it, or as a company would, in both colours."""

    def __init__(self, *, own: bool = False, only: int | None = None) -> None:
        self._own, self._only = own, only

    def check(self, response: httpx.Response) -> None:
        if self._only is not None and response.status_code != self._only:
            return
        if self._own:
            message = f"bad answer of {response.url}"
            raise CompanyError(message)
        response.raise_for_status()

    async def acheck(self, response: httpx.Response) -> None:
        self.check(response)

    async def aread_and_check(self, response: httpx.Response) -> None:
        await response.aread()
        self.check(response)

    def read_and_check(self, response: httpx.Response) -> None:
        response.read()
        self.check(response)

    def hooks(self, lent: Lent, *, reads: bool = False) -> dict[str, list[Any]]:
        is_async = lent in {awaited, over_aiohttp}
        name = ("aread_and_check" if is_async else "read_and_check") if reads else None
        return {"response": [getattr(self, name or ("acheck" if is_async else "check"))]}


GONE = answers({"type": "3", "message": "No active conversation found", "data": None}, 404)


@every_loan
@every_call
@pytest.mark.parametrize("own", [False, True], ids=["raise_for_status", "an error of its own"])
@pytest.mark.parametrize("reads", [False, True], ids=["as it comes", "reads it first"])
@pytest.mark.parametrize(
    ("script", "error"),
    [
        (GONE, ConversationNotFoundError),
        (answers({"type": "3", "data": None}, 401), AuthenticationError),
        (answers({"type": "3", "data": None}, 429, retry_after=7), RateLimitError),
        (answers(gzip.compress(b'{"type": "3"}'), 404, content_encoding="gzip"), NotFoundError),
        (answers("<html>", 404), NotFoundError),
        (answers("<html>", 503), ServerError),
        (answers("", 302, location="/login"), APIStatusError),
    ],
    ids=["404", "401", "429", "gzip", "a page", "503", "redirect"],
)
def test_a_hook_that_raises_leaves_our_error_with_its_facts(
    *,
    script: Any,
    error: type[APIError],
    own: bool,
    reads: bool,
    call: Any,
    lent: Lent,
    server: FaultyServer,
) -> None:
    """The server answered: what a hook thinks of it comes second, and its text names customers."""
    server.plays(script)

    with pytest.raises(error) as told:
        lent(server, call, event_hooks=Shouting(own=own).hooks(lent, reads=reads))

    assert told.value.status_code in {302, 401, 404, 429, 503}
    assert told.value.retry_after == (7.0 if error is RateLimitError else None)
    assert_says_nothing_private(told.value)


@every_loan
@every_call
def test_a_hook_that_refuses_a_success_is_believed(
    call: Any, lent: Lent, server: FaultyServer
) -> None:
    """It may check a signature; a write may have been applied, and where it raised is told."""
    with pytest.raises(
        InvalidResponseError, match=r"refuses it with CompanyError at \w+/test_"
    ) as told:
        lent(server, call, event_hooks=Shouting(own=True).hooks(lent))

    assert told.value.ambiguous is (call is not read)
    assert told.value.status_code == 200
    assert_says_nothing_private(told.value)


@pytest.mark.parametrize("lent", [blocking, on_a_thread])
def test_hooks_before_the_request_may_fail(lent: Lent, server: FaultyServer) -> None:
    """Nothing came back, so that is all that is known."""

    def refusing(request: httpx.Request) -> None:
        message = f"not {request.url}"
        raise CompanyError(message)

    with pytest.raises(APIConnectionError, match="raised CompanyError") as told:
        lent(server, post, event_hooks={"request": [refusing]})

    assert server.received == []
    assert_says_nothing_private(told.value)


class TokenFlow(httpx.Auth):
    """Asks for a token first, over the same client, and again when it is not accepted."""

    requires_response_body = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._token = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        for _ in range(2):
            if not self._token:
                told = yield httpx.Request("POST", f"{self._url}/token")
                told.raise_for_status()
                self._token = told.json()["token"]
            request.headers["Authorization"] = f"Bearer {self._token}"
            response = yield request
            if response.status_code != 401:
                return
            self._token = ""


class TokenServer:
    """An API server, and beside it a server of tokens, the first of which has expired."""

    def __init__(self, token_status: int = 200) -> None:
        self._status, self._given = token_status, 0

    def __call__(self, request: Received) -> Any:
        if request.target == "/token":
            self._given += 1
            return answers({"token": f"t{self._given}"}, self._status)(request)
        if request.headers.get("authorization") != "Bearer t2":
            return answers({"type": "3", "data": None}, 401)(request)
        return answers(CONVERSATION)(request)


@every_loan
@every_call
def test_an_auth_flow_of_the_client_is_used(call: Any, lent: Lent, server: FaultyServer) -> None:
    """Its own requests, too; together with hooks that raise, it is what they say."""
    server.plays(TokenServer())

    assert lent(server, call, auth=TokenFlow(server.url)).bot_id == "bot123"


@every_loan
def test_an_auth_flow_that_fails_is_told_apart_from_the_api(
    lent: Lent, server: FaultyServer
) -> None:
    """The refusal is the token server's: it says nothing of the conversation."""
    server.plays(TokenServer(404))

    with pytest.raises(APIConnectionError, match="raised HTTPStatusError") as told:
        lent(server, read, auth=TokenFlow(server.url))

    assert told.value.status_code is None
    assert_says_nothing_private(told.value)


def test_what_passes_is_repeated_under_hooks_that_raise(server: FaultyServer) -> None:
    """As promised for any client."""
    server.plays(answers("<html>", 503), answers(CONVERSATION))
    with httpx.Client(event_hooks={"response": [Shouting().check]}) as lent:
        api = Api(server.url, http_client=lent, pace=Pace(randomness=lambda: 0.0))
        assert run(read(api)).bot_id == "bot123"

    assert len(server.received) == 2


def test_other_requests_of_a_lent_client_are_as_ever(server: FaultyServer) -> None:
    """Ours leave no trace: its hooks see theirs, unread, and raise as they do."""
    server.plays(GONE)
    seen: list[bool] = []

    def look(response: httpx.Response) -> None:
        seen.append(response.is_stream_consumed)
        response.raise_for_status()

    with httpx.Client(event_hooks={"response": [look]}) as lent:
        with pytest.raises(ConversationNotFoundError):
            run(read(Api(server.url, http_client=lent)))
        with pytest.raises(httpx.HTTPStatusError):
            lent.get(f"{server.url}/mine")

        assert lent.event_hooks["response"][-1] is look
        assert len(lent.event_hooks["response"]) == 2
    assert seen == [False, False]


@every_loan
def test_mounts_of_the_client_are_used(lent: Lent, server: FaultyServer) -> None:
    """By host and scheme, as its owner set them up."""
    answer = httpx.Response(200, json=CONVERSATION)
    mounts = {"all://127.0.0.1": httpx.MockTransport(lambda _: answer)}

    assert lent(server, read, mounts=mounts).bot_id == "bot123"
    assert server.received == []


def lent_things() -> list[Any]:
    """What people lend that is no client of httpx."""
    things: list[Any] = [object(), httpx.Client, "https://proxy.example.com"]
    with suppress(ImportError):
        import httpx2

        things += [httpx2.Client(), httpx2.AsyncClient()]
    return things


@pytest.mark.parametrize("make", [ConvSyncClient, AsyncConvSyncClient, WAHAClient, WAHAReply])
@pytest.mark.parametrize("thing", lent_things(), ids=lambda thing: type(thing).__module__)
def test_what_is_no_client_of_httpx_is_refused_by_its_right_name(make: Any, thing: Any) -> None:
    """When the client is made: httpx2's look alike, and call their errors otherwise."""
    name = f"{type(thing).__module__.partition('.')[0]}.{type(thing).__name__}"

    with pytest.raises(ConfigurationError, match=rf"httpx\.Client.*{name}"):
        make("https://api.example.com", http_client=thing)
