"""Whether the API server is healthy: its own word, or why it could not be asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync.client import Api
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    InvalidResponseError,
    NotFoundError,
)
from tests.faulty_server import (
    CLOSE,
    FaultyServer,
    Perform,
    Script,
    answers,
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


@sync_and_async
@pytest.mark.parametrize(
    ("script", "healthy"),
    [
        (answers({"type": "1", "message": "healthy", "data": {"status": "ok"}}), True),
        (answers({"status": "ok"}), True),
        (answers({"type": "3", "message": "database down", "data": None}), False),
        (answers({"type": "3", "message": "database down", "data": None}, 503), False),
        (answers("down", 500), False),
    ],
)
def test_health_is_what_the_server_says(
    script: Script, healthy: bool, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """False is the server's own word, asked for once."""
    server.plays(script)

    assert perform(api.health()) is healthy
    assert len(server.received) == 1


@sync_and_async
@pytest.mark.parametrize(
    ("script", "error"),
    [
        (answers({"error": "no token"}, 401), AuthenticationError),
        (answers("<html>", 404), NotFoundError),
        (answers({"type": "3", "message": "none", "data": None}, 404), NotFoundError),
        (answers("<html>a front page</html>"), InvalidResponseError),
        (sends(CLOSE), APIConnectionError),
    ],
)
def test_a_server_that_cannot_be_asked_for_its_health_is_an_error(
    script: Script, error: type[APIError], api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A wrong prefix or key is the caller's to mend, and says so."""
    server.plays(script)

    with pytest.raises(error) as told:
        perform(api.health())

    assert type(told.value) is error
