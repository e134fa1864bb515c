"""Bad servers: every status, envelope and body that is not the documented success."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync import ConvSyncClient, ServerProfile
from langchain_convsync.client import Api
from langchain_convsync.client._exchange import LARGEST_BODY
from langchain_convsync.errors import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConversationNotFoundError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from langchain_convsync.testing import ReferenceServer
from tests.client_calls import (
    BODY,
    CONVERSATION,
    PHONE,
    assert_says_nothing_private,
    every_call,
    post,
    put,
    read,
)
from tests.faulty_server import (
    FaultyServer,
    Perform,
    Script,
    answers,
    head,
    sends,
    sync_and_async,
)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def api(server: FaultyServer) -> Iterator[Api]:
    built = Api(server.url, timeout=5.0, max_retries=0)
    yield built
    built.close()


BOMB = gzip.compress(bytes(8 * LARGEST_BODY))


@sync_and_async
@pytest.mark.parametrize(
    ("script", "why"),
    [
        (answers(b"<html>999999999</html>", content_type="text/html"), "not a JSON object"),
        (answers(b""), "not a JSON object"),
        (sends(head(204)), "not a JSON object"),
        (answers(b"[]"), "not a JSON object"),
        (answers(json.dumps(CONVERSATION)[:-4]), "not a JSON object"),
        (answers(b'{"type": "1", "data": {"x": NaN}}'), "not a JSON object"),
        (answers(b'{"type": "1", "data": {"x": -Infinity}}'), "not a JSON object"),
        (
            answers(b'{"type": "1", "data": ' + b"[" * 1000 + b"]" * 1000 + b"}"),
            "not a JSON object",
        ),
        (answers(b'{"type": "1", "data": ' + b"9" * 5000 + b"}"), "not a JSON object"),
        (answers(b'{"type": "1", "message": "\xff"}'), "not a JSON object"),
        (answers({"message": "ok", "data": {}}), "no type"),
        (answers({"type": "1", "data": {"sessionId": 999999999}}), "sessionId: string_type"),
        (answers({"type": "1", "data": "999999999"}), "data: model_type"),
        (answers(b"x", content_encoding="br"), "Content-Encoding"),
        (answers(b"plain text all the same", content_encoding="gzip"), "not gzip"),
        (answers(bytes(LARGEST_BODY + 1)), "larger than 8388608 bytes"),
        (answers(BOMB, content_encoding="gzip"), "larger than 8388608 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@every_call
def test_an_answer_of_another_shape_is_refused(
    *, script: Script, why: str, call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """With the reason, without the answer; a write may have been applied all the same."""
    server.plays(script)

    with pytest.raises(InvalidResponseError, match=why) as told:
        perform(call(api))

    assert told.value.ambiguous is (call is not read)
    assert_says_nothing_private(told.value)


@sync_and_async
def test_a_gzip_bomb_is_never_unpacked(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """64 MiB of zeros in a few KiB: the memory used stays near the cap."""
    server.plays(answers(BOMB, content_encoding="gzip"))

    tracemalloc.start()
    with pytest.raises(InvalidResponseError):
        perform(read(api))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3 * LARGEST_BODY


@sync_and_async
def test_a_gzipped_answer_is_read(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """Only gzip is asked for."""
    server.plays(answers(gzip.compress(BODY), content_encoding="gzip"))

    assert perform(read(api)).bot_id == "bot123"
    assert server.received[0].headers["accept-encoding"] == "gzip"


@sync_and_async
@pytest.mark.parametrize(
    ("status", "error", "ambiguous", "step"),
    [
        (301, APIStatusError, False, "base_url"),
        (307, APIStatusError, False, "base_url"),
        (400, BadRequestError, False, "check"),
        (401, AuthenticationError, False, "CONVSYNC_API_KEY"),
        (403, PermissionDeniedError, False, "tenant"),
        (404, ConversationNotFoundError, False, "webhook"),
        (405, BadRequestError, False, "check"),
        (409, ConflictError, False, "read it again"),
        (422, BadRequestError, False, "check"),
        (429, RateLimitError, False, "slow down"),
        (500, ServerError, True, "log"),
        (502, ServerError, True, "log"),
        (503, ServerError, True, "log"),
    ],
)
@every_call
def test_every_status_has_its_error(
    *,
    status: int,
    error: type[APIError],
    ambiguous: bool,
    step: str,
    call: Any,
    api: Api,
    server: FaultyServer,
    perform: Perform[Any],
) -> None:
    """With the facts, the next step, and whether a write may have been applied."""
    body = {"type": "3", "message": f"no {PHONE}", "data": None}
    server.plays(
        answers(body, status, x_request_id="req-7", retry_after=2, location=f"{server.url}/else")
    )

    with pytest.raises(error, match=step) as told:
        perform(call(api))

    assert type(told.value) is error
    assert told.value.status_code == status
    assert told.value.request_id == "req-7"
    assert told.value.retry_after == 2.0
    assert told.value.ambiguous is (ambiguous and call is not read)
    assert f"status {status}, request req-7" in str(told.value)
    assert len(server.received) == 1
    assert_says_nothing_private(told.value)


@sync_and_async
@pytest.mark.parametrize(
    "body",
    [
        "<html>Cannot GET</html>",
        '{"detail": "Not Found"}',
        '{"type": "3", "message": "No such endpoint; they are under /api", "data": null}',
    ],
    ids=["html", "another api", "the reference server"],
)
def test_a_wrong_prefix_is_told_from_a_missing_conversation(
    body: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A 404 that is no documented envelope, or is one about the path, names the setting."""
    server.plays(answers(body, 404))

    with pytest.raises(NotFoundError, match=r"ServerProfile\(prefix=") as told:
        perform(read(api))

    assert type(told.value) is NotFoundError


@pytest.mark.parametrize(("path", "prefix"), [("/v1", None), ("", "/v1")])
def test_a_path_beside_the_reference_servers_is_no_missing_conversation(
    path: str, prefix: str | None
) -> None:
    """Whose customer is there, under another path."""
    with ReferenceServer() as running:
        running.create_conversation(phone_number=PHONE, subdomain="a", bot_id="b")
        profile = ServerProfile(prefix=prefix) if prefix else ServerProfile()
        client = ConvSyncClient(running.base_url + path, profile=profile, max_retries=0)
        with client, pytest.raises(NotFoundError, match="nothing under this path") as told:
            client.get_conversation(PHONE)

    assert type(told.value) is NotFoundError


API_SAYS_NO = {"type": "3", "message": "no", "data": None}


@sync_and_async
@pytest.mark.parametrize(
    ("body", "status", "foreign"),
    [
        *(("<html>", status, True) for status in (200, 302, 400, 401, 403, 404, 405, 407, 422)),
        *(({"message": "no"}, status, True) for status in (200, 401, 403, 404, 405)),
        *((API_SAYS_NO, status, False) for status in (200, 400, 401, 403, 404, 409, 422)),
        *(({"detail": "no"}, status, False) for status in (400, 409, 422)),
        *(("<html>", status, False) for status in (413, 414, 431)),
        ({"type": "1", "data": {"sessionId": 7}}, 200, False),
        (API_SAYS_NO, 407, True),
    ],
)
@every_call
def test_what_is_not_the_api_s_own_answer_is_told_as_foreign(
    *,
    body: Any,
    status: int,
    foreign: bool,
    call: Any,
    api: Api,
    server: FaultyServer,
    perform: Perform[Any],
) -> None:
    """A page, another router's JSON, a proxy's demand; not a body that its framework refuses."""
    server.plays(answers(body, status))

    with pytest.raises(APIError) as told:
        perform(call(api))

    assert told.value.foreign is foreign
    assert told.value.status_code == status
    assert told.value.ambiguous is (status == 200 and call is not read and body != API_SAYS_NO)


@sync_and_async
@pytest.mark.parametrize(
    "message", ["No active conversation found for this phone number", "Conversation not found"]
)
def test_a_404_in_another_envelope_may_name_the_conversation(
    message: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Frameworks have envelopes of their own; the words are the documented ones."""
    server.plays(answers({"statusCode": 404, "message": message, "error": "Not Found"}, 404))

    with pytest.raises(ConversationNotFoundError):
        perform(put(api))


@sync_and_async
@pytest.mark.parametrize("status", [404, 429, 503])
def test_a_status_counts_even_if_its_body_is_useless(
    status: int, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A refusal with a bomb for a body is still that refusal."""
    server.plays(answers(BOMB, status, content_encoding="gzip"))

    with pytest.raises(APIStatusError) as told:
        perform(read(api))

    assert told.value.status_code == status


@sync_and_async
@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        ({"type": "3", "message": "No active conversation found", "data": None}, True),
        ({"type": "3", "message": "Conversation not found", "data": None}, True),
        ({"type": "3", "message": f"Broken for {PHONE}", "data": None}, False),
        ({"type": "3", "message": None, "data": CONVERSATION["data"]}, False),
        ({"type": "2", "data": CONVERSATION["data"]}, False),
        ({"type": True, "data": CONVERSATION["data"]}, False),
        ({"type": ["1"], "data": CONVERSATION["data"]}, False),
    ],
)
@every_call
def test_an_error_with_status_200_is_an_error(
    *, envelope: Any, error: bool, call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """The envelope's type decides; a conversation that is not there is recognised."""
    server.plays(answers(envelope))
    expected = ConversationNotFoundError if error else APIStatusError

    with pytest.raises(expected) as told:
        perform(call(api))

    assert type(told.value) is expected
    assert told.value.status_code == 200
    assert_says_nothing_private(told.value)


@sync_and_async
def test_a_look_up_without_data_found_nothing(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Success with ``data: null`` is how some servers say 404."""
    server.plays(answers({"type": "1", "message": "ok", "data": None}))

    with pytest.raises(ConversationNotFoundError):
        perform(read(api))


@sync_and_async
def test_a_type_may_be_a_number(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """Some servers send 1 for "1"."""
    server.plays(answers({**CONVERSATION, "type": 1}))

    assert perform(read(api)).subdomain == "restaurant-abc"


@sync_and_async
def test_a_redirect_is_not_followed(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """It would carry the key, and repeat a write, wherever the server points."""
    server.plays(answers({}, 307, location=f"{server.url}/elsewhere"))

    with pytest.raises(APIStatusError, match="redirects"):
        perform(post(api))

    assert len(server.received) == 1


@sync_and_async
def test_a_conversation_that_expires_between_read_and_write_is_not_found(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """The write says so, clearly not applied, and the tenant is looked up anew next time."""
    gone = answers({"type": "3", "message": "Conversation not found", "data": None}, 404)
    server.plays(answers(CONVERSATION), gone, answers(CONVERSATION))
    perform(api.lookup_tenant(PHONE, "bot123"))

    with pytest.raises(ConversationNotFoundError) as told:
        perform(put(api))
    perform(api.lookup_tenant(PHONE, "bot123"))

    assert not told.value.ambiguous
    assert [request.method for request in server.received] == ["GET", "PUT", "GET"]
