"""What a company's network sets in the environment: its proxy, and the authority it trusts.

Honoured only when asked: a variable that happens to be set would send requests, with their key,
another way than the configuration says. Where it is set and not honoured, failures say so.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx

from langchain_convsync.client._exchange import Failure
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import url_parts

_PORTS = {"http": 80, "https": 443}
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_WITH_TRUST = "used with trust_env=True (CONVSYNC_TRUST_ENV=1) only"


def proxy_for(base_url: str) -> httpx.Proxy | None:
    """The proxy that the environment names for a server; None where it names none, or excepts it.

    ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, in capitals or not; on macOS
    and Windows also what the system is set to.

    Raises:
        ConfigurationError: It is no proxy that we can speak to; the message does not repeat it.
    """
    named = _named(base_url)
    if named is None:
        return None
    variable, url = named
    url = url if "://" in url else f"http://{url}"
    if url_parts(url) is None:
        message = (
            f"the proxy in {variable} must be one such as http://proxy.example.com:3128; for "
            "others, e.g. SOCKS, pass http_client=httpx.Client(proxy=…)"
        )
        raise ConfigurationError(message)
    return httpx.Proxy(url)


def _named(base_url: str) -> tuple[str, str] | None:
    parts, proxies = urlsplit(base_url), urllib.request.getproxies()
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    for kind in (parts.scheme, "all"):
        if url := proxies.get(kind):
            excepted = urllib.request.proxy_bypass(f"{host}:{port}") or _in_network(host, proxies)
            return None if excepted else (f"{kind.upper()}_PROXY", url)
    return None


def _in_network(host: str, proxies: dict[str, str]) -> bool:
    """Whether ``NO_PROXY`` excepts the network that an address is in, as in ``10.0.0.0/8``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks(proxies.get("no", "")))


def _networks(no_proxy: str) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for name in no_proxy.split(","):
        try:
            yield ipaddress.ip_network(name.strip(), strict=False)
        except ValueError:
            continue


def tls_context(*, trust_env: bool) -> ssl.SSLContext:
    """How servers prove who they are: by the usual authorities, or those of the environment.

    Raises:
        ConfigurationError: The environment names a file that is not there, or has no certificates.
    """
    try:
        return httpx.create_ssl_context(trust_env=trust_env)
    except (ssl.SSLError, OSError) as error:
        message = "SSL_CERT_FILE or SSL_CERT_DIR names no certificates that can be read (PEM)"
        raise ConfigurationError(message) from error


def hinted(failure: Failure, base_url: str, *, trust_env: bool) -> Failure:
    """A failure with what the network may have to do with it."""
    hints = [*_of_certificates(failure, trust_env=trust_env)]
    named = None if failure.sent else _named(base_url)
    if named is not None:
        use = "names the proxy that was asked" if trust_env else f"is set, and {_WITH_TRUST}"
        hints.append(f"{named[0]} {use}")
    return replace(failure, hint="; ".join(hints)) if hints else failure


def _of_certificates(failure: Failure, *, trust_env: bool) -> Iterator[str]:
    if not isinstance(failure.cause, ssl.SSLCertVerificationError):
        return
    variable = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
    if variable is None:
        yield f"an authority of your own stands in the file that SSL_CERT_FILE names, {_WITH_TRUST}"
    elif trust_env:
        yield f"{variable} is used: check that it holds the authority that signed the certificate"
    else:
        yield f"{variable} is set, and {_WITH_TRUST}"
