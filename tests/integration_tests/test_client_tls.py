"""Servers have to prove who they are, and a call over TLS is a call like any other."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest

from langchain_convsync.client import Api
from langchain_convsync.errors import APIConnectionError, APITimeoutError
from tests.client_calls import BODY, CONVERSATION, post, read
from tests.faulty_server import FaultyServer, Perform, answers, head, sends, sync_and_async

OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the test certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine, signed by itself, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(OPENSSL or "", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", "key.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "certificate.pem"


@pytest.fixture
def server(certificate: Path) -> Iterator[FaultyServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with FaultyServer(tls) as running:
        running.plays(answers(CONVERSATION))
        yield running


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is one of those that everybody trusts."""
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))


@sync_and_async
def test_a_server_without_a_trusted_certificate_is_refused(
    server: FaultyServer, perform: Perform[Any]
) -> None:
    """Nothing is sent to it, no key and no message."""
    api = Api(server.url, api_key="key-1", max_retries=0)

    with pytest.raises(APIConnectionError, match=r"certificate verify failed") as told:
        perform(post(api))

    assert not told.value.ambiguous
    assert server.received == []
    api.close()


@sync_and_async
@pytest.mark.usefixtures("trusted")
def test_a_trusted_server_is_spoken_to(server: FaultyServer, perform: Perform[Any]) -> None:
    """Over one connection as long as it lasts."""
    api = Api(server.url)

    assert perform(read(api)).bot_id == "bot123"

    api.close()


@sync_and_async
@pytest.mark.usefixtures("trusted")
def test_a_trickling_answer_over_tls_ends_at_the_deadline(
    server: FaultyServer, perform: Perform[Any]
) -> None:
    """The deadline holds for every operation on the encrypted socket, too."""
    drops = (part for byte in BODY for part in (bytes([byte]), 0.02))
    server.plays(sends(head(content_length=len(BODY)), *drops))
    api = Api(server.url, max_retries=0)

    with pytest.raises(APITimeoutError):
        perform(read(api, timeout=0.2))

    assert server.wait_for(lambda it: it.connected == 0)
    api.close()
