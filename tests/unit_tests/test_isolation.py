"""The promises of `conftest.py` and of pytest's configuration to every other test."""

from __future__ import annotations

import os
import socket
import warnings

import pytest
from pytest_socket import SocketConnectBlockedError


def test_a_connection_beyond_this_machine_is_refused() -> None:
    """No test can reach the network, not even by accident."""
    nowhere = ("255.255.255.255", 9)  # no packet would leave even if the guard were gone
    with socket.socket() as outside, pytest.raises(SocketConnectBlockedError):
        outside.connect(nowhere)


def test_a_connection_on_this_machine_is_allowed() -> None:
    """Integration tests talk real HTTP and real Redis over loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getpeername() == server.getsockname()


def test_tracing_is_off_and_no_outside_configuration_is_seen() -> None:
    """A developer's keys cannot change a result, and nothing is exported to a tracer."""
    seen = {name for name in os.environ if name.startswith(("CONVSYNC_", "OPENAI_", "LANGSMITH_"))}

    assert seen == {"LANGSMITH_TRACING"}
    assert os.environ["LANGSMITH_TRACING"] == "false"


def test_a_warning_fails_the_test_that_caused_it() -> None:
    """Deprecations surface on the day they appear."""
    with pytest.raises(DeprecationWarning):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
