"""The three kinds of calls that the client tests make, and the answer that satisfies them all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from langchain_convsync._flow import Flow
from langchain_convsync.client import Api
from tests.faulty_server import Received, head

PHONE = "+51999999999"
SESSION = "bot123_51999999999_1234567890_xyz"
CONVERSATION: dict[str, Any] = {
    "type": "1",
    "message": "Conversation retrieved successfully",
    "data": {
        "sessionId": SESSION,
        "userId": PHONE,
        "botId": "bot123",
        "subDomain": "restaurant-abc",
    },
}
BODY = json.dumps(CONVERSATION).encode()
WHOLE = head(content_type="application/json", content_length=len(BODY)) + BODY


def conversation(**fields: object) -> dict[str, Any]:
    """The answer with some of its fields replaced."""
    return {**CONVERSATION, "data": {**CONVERSATION["data"], **fields}}


def read(api: Api, **options: Any) -> Flow[Any]:
    return api.get_conversation(PHONE, **options)


def post(api: Api, **options: Any) -> Flow[Any]:
    return api.add_message(SESSION, "user", "Hola", **options)


def put(api: Api, **options: Any) -> Flow[Any]:
    return api.sync_conversation(SESSION, {"step": "paying"}, **options)


every_call = pytest.mark.parametrize("call", [read, post, put])


def assert_says_nothing_private(error: BaseException) -> None:
    """No phone number, session id or text, in the error and in everything chained to it."""
    seen: BaseException | None = error
    while seen is not None:
        told = f"{seen} {seen!r} {seen.args} {vars(seen)}"
        assert "999999999" not in told
        assert "Hola" not in told
        seen = seen.__cause__ or seen.__context__


class Gate:
    """A script that answers when the test opens it."""

    def __init__(self) -> None:
        self._open = Event()

    def open(self) -> None:
        self._open.set()

    def __call__(self, _: Received) -> Iterator[bytes]:
        self._open.wait(5)
        yield WHOLE
