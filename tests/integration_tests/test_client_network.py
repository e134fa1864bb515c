"""A company's network: its proxy and its own authority are used when asked, and named if not."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_convsync import AsyncConvSyncClient, ConvSyncClient, WAHAReply
from langchain_convsync.client import Api, AsyncWAHAClient, Waha, WAHAClient
from langchain_convsync.errors import APIConnectionError, ConfigurationError, WAHAError
from tests.client_calls import CONVERSATION, assert_says_nothing_private, every_call, post, read
from tests.doctor_runs import doctor
from tests.faulty_server import FaultyServer, Perform, answers, sync_and_async
from tests.http_proxy import HttpProxy

OPENSSL = shutil.which("openssl")

needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the authority")
TRUSTS = "used with trust_env=True (CONVSYNC_TRUST_ENV=1) only"
_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine that runs the tests, which may be in such a network."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A company's own authority, and a certificate by it for this machine and for another host."""
    folder = tmp_path_factory.mktemp("company")
    (folder / "names").write_text("subjectAltName=DNS:api.internal,IP:127.0.0.1\n")
    new = "req -newkey rsa:2048 -nodes -days 2"
    sign = "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
    for command in (
        f"{new} -x509 -keyout ca.key -out ca.pem -subj /CN=Company",
        f"{new} -keyout key.pem -out request.pem -subj /CN=api.internal",
        f"{sign} -extfile names -out certificate.pem",
    ):
        subprocess.run(
            [OPENSSL or "", *command.split()], cwd=folder, check=True, capture_output=True
        )
    return folder / "ca.pem"


@pytest.fixture
def secure(authority: Path) -> Iterator[FaultyServer]:
    """An API server whose certificate is the company's."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.with_name("certificate.pem"), authority.with_name("key.pem"))
    with FaultyServer(tls) as running:
        running.plays(answers(CONVERSATION))
        yield running


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.plays(answers(CONVERSATION))
        yield running


@pytest.fixture
def proxy() -> Iterator[HttpProxy]:
    with HttpProxy() as running:
        yield running


def port_of(server: FaultyServer) -> str:
    return server.url.rpartition(":")[2]


# What is honoured


@needs_openssl
@sync_and_async
@every_call
def test_an_authority_of_the_environment_is_trusted_when_asked(
    call: Any,
    authority: Path,
    secure: FaultyServer,
    perform: Perform[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By ``SSL_CERT_FILE``, as by other programs of the container."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    api = Api(secure.url, trust_env=True)

    assert perform(call(api)).bot_id == "bot123"
    api.close()


@needs_openssl
@sync_and_async
@every_call
def test_a_call_goes_through_the_tunnel_of_a_proxy_when_asked(
    call: Any,
    authority: Path,
    secure: FaultyServer,
    proxy: HttpProxy,
    perform: Perform[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It alone knows the host; what goes through it, key and words, it cannot read."""
    monkeypatch.setenv("CONVSYNC_TRUST_ENV", "1")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    api = Api(f"https://api.internal:{port_of(secure)}", api_key="key-1")

    assert perform(call(api)).bot_id == "bot123"
    assert proxy.asked == [("CONNECT", f"api.internal:{port_of(secure)}")]
    assert secure.received[0].headers["authorization"] == "Bearer key-1"
    api.close()


@sync_and_async
def test_plain_http_that_was_opened_by_name_goes_by_the_proxy(
    server: FaultyServer,
    proxy: HttpProxy,
    perform: Perform[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``HTTP_PROXY`` forwards it; one without its scheme is one all the same."""
    monkeypatch.setenv("CONVSYNC_ALLOW_HTTP", "api.internal")
    monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    api = Api(f"http://api.internal:{port_of(server)}", trust_env=True)

    assert perform(read(api)).bot_id == "bot123"
    assert [method for method, _ in proxy.asked] == ["GET"]
    api.close()


@pytest.mark.parametrize(
    "excepted", ["127.0.0.1", "example.com, 127.0.0.1", "*", "127.0.0.0/8", "::1,127.0.0.1/32"]
)
@sync_and_async
def test_what_no_proxy_names_is_asked_without_it(
    excepted: str,
    server: FaultyServer,
    proxy: HttpProxy,
    perform: Perform[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hosts, and networks of addresses."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", excepted)
    api = Api(server.url, trust_env=True)

    assert perform(read(api)).bot_id == "bot123"
    assert proxy.asked == []
    api.close()


@sync_and_async
def test_a_proxy_gets_the_credentials_of_its_url(
    server: FaultyServer, perform: Perform[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the API server does not."""
    with HttpProxy(credentials="user:p%w") as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url.replace("//", "//user:p%25w@"))
        api = Api(server.url, trust_env=True)
        assert perform(read(api)).bot_id == "bot123"
        api.close()

    assert len(proxy.asked) == 1


@sync_and_async
def test_waha_is_asked_by_way_of_the_proxy_too(
    proxy: HttpProxy, perform: Perform[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One setting for all that is called."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with FaultyServer() as server:
        server.plays(answers([]))
        waha = Waha(server.url, trust_env=True)
        assert perform(waha.sessions(timeout=5.0)) == []
        waha.close()

    assert len(proxy.asked) == 1


@needs_openssl
@sync_and_async
def test_a_tunnel_is_asked_for_with_the_credentials(
    authority: Path, secure: FaultyServer, perform: Perform[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the request for the tunnel: what is in it never has them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with HttpProxy(credentials="user:p%w") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:p%25w@"))
        api = Api(f"https://api.internal:{port_of(secure)}", trust_env=True)
        assert perform(read(api)).bot_id == "bot123"
        assert perform(read(api)).bot_id == "bot123"
        api.close()

    assert "proxy-authorization" not in secure.received[0].headers


# What is not


@sync_and_async
def test_nothing_goes_by_a_proxy_unless_asked(
    server: FaultyServer,
    proxy: HttpProxy,
    perform: Perform[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A variable that happens to be set sends no key elsewhere."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    api = Api(server.url)

    assert perform(read(api)).bot_id == "bot123"
    assert proxy.asked == []
    api.close()


@pytest.fixture
def unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


@pytest.mark.usefixtures("unknown_host")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
@sync_and_async
def test_a_proxy_that_is_not_used_is_named_where_no_connection_comes_about(
    variable: str, perform: Perform[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to pass; an excepted host needs none."""
    monkeypatch.setenv(variable, "http://user:secret@proxy.example.com:3128")
    api = Api("https://api.example.com", max_retries=0)

    with pytest.raises(APIConnectionError) as told:
        perform(post(api))
    monkeypatch.setenv("NO_PROXY", "example.com")
    with pytest.raises(APIConnectionError) as excepted:
        perform(post(api))

    assert f"{variable.upper()} is set, and {TRUSTS}" in str(told.value)
    assert "secret" not in str(told.value)
    assert "PROXY" not in str(excepted.value)
    api.close()


@pytest.mark.usefixtures("unknown_host")
@sync_and_async
def test_waha_s_errors_name_it_too(perform: Perform[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same network."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    waha = Waha("https://waha.example.com")

    with pytest.raises(WAHAError, match="HTTPS_PROXY is set"):
        perform(waha.sessions(timeout=5.0))
    waha.close()


@needs_openssl
@sync_and_async
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", None])
def test_an_authority_that_is_not_used_is_named(
    variable: str | None,
    authority: Path,
    secure: FaultyServer,
    perform: Perform[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Set or not, that is what the machine's network may have to do with it."""
    if variable is not None:
        monkeypatch.setenv(variable, str(authority))
    api = Api(secure.url, max_retries=0)

    with pytest.raises(APIConnectionError, match=r"certificate verify failed.*") as told:
        perform(read(api))

    assert "SSL_CERT_FILE" in str(told.value)
    assert TRUSTS in str(told.value)
    api.close()


@needs_openssl
def test_doctor_names_them_too(
    authority: Path, secure: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asks the way that the clients would."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    refused = doctor("--base-url", secure.url)
    monkeypatch.setenv("CONVSYNC_TRUST_ENV", "yes")
    reached = doctor("--base-url", secure.url)

    assert f"SSL_CERT_FILE is set, and {TRUSTS}" in refused.of("API server", "TLS")["advice"]
    assert reached.status("API server", "TLS") == "ok"


@sync_and_async
@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_is_told_without_its_words(
    status: int, perform: Perform[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was applied: the tunnel was not there yet."""
    with HttpProxy(refuses=status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        api = Api("https://api.example.com", trust_env=True, max_retries=0)
        with pytest.raises(APIConnectionError, match=f"the proxy refuses with {status}") as told:
            perform(post(api))
        api.close()

    assert not told.value.ambiguous
    assert "HTTPS_PROXY" in str(told.value)
    assert_says_nothing_private(told.value)


# What cannot be used


MAKERS = [ConvSyncClient, AsyncConvSyncClient, WAHAClient, AsyncWAHAClient, WAHAReply]
every_maker = pytest.mark.parametrize("make", MAKERS)


@every_maker
@pytest.mark.parametrize("url", ["socks5://proxy:1080", "http://", "http://proxy:port:9"])
def test_a_proxy_that_cannot_be_spoken_to_is_told_when_a_client_is_made(
    make: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what can; without repeating a URL that may hold a password."""
    monkeypatch.setenv("HTTPS_PROXY", url)

    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY must be.*http_client=") as told:
        make("https://api.example.com", trust_env=True)

    assert "1080" not in str(told.value)
    make("https://api.example.com")


@every_maker
def test_certificates_that_cannot_be_read_are_told_when_a_client_is_made(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there, or holds none."""
    (tmp_path / "empty.pem").write_text("")
    for name in ("absent.pem", "empty.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
            make("https://api.example.com", trust_env=True)


@every_maker
def test_a_switch_that_is_neither_yes_nor_no_is_told(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the argument goes before the environment."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    for told in ("", "0", "false", " off "):
        monkeypatch.setenv("CONVSYNC_TRUST_ENV", told)
        make("https://api.example.com")
    monkeypatch.setenv("CONVSYNC_TRUST_ENV", "on")
    make("https://api.example.com", trust_env=False)
    monkeypatch.setenv("CONVSYNC_TRUST_ENV", "maybe")
    with pytest.raises(ConfigurationError, match="CONVSYNC_TRUST_ENV must be 1 or 0"):
        make("https://api.example.com")
