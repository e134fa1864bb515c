"""Keys and tokens: who is let in, as whom, and who is not."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import ApiKey, JwtRules, RateLimit
from langchain_convsync.server.access import Keyring
from langchain_convsync.server.guard import Guard
from langchain_convsync.server.limits import Limiter
from tests.tokens import CLAIMS, LATER, SECRET, token

KEY = "abc-key-0123456789"
ring = Keyring(
    [
        ApiKey.of(KEY, name="abc", tenants=["restaurant-abc"]),
        ApiKey.of("all-key-0123456789", name="all", tenants="*"),
    ],
    JwtRules(key=SECRET),
)


def unsigned(header: dict[str, Any], signature: str = "") -> str:
    """A token that somebody wrote by hand."""
    claims = {**CLAIMS, "exp": int(LATER.timestamp())}
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()) for p in (header, claims)]
    return ".".join([*(part.decode().rstrip("=") for part in parts), signature])


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither how much of a key's hash is right nor which key it is shows in the time taken."""
    compared: list[str] = []

    def noting(one: str, other: str) -> bool:
        compared.append(one)
        return hmac.compare_digest(one, other)

    watched = SimpleNamespace(compare_digest=noting)
    monkeypatch.setattr("langchain_convsync.server.access.hmac", watched)

    assert ring.caller_of([f"Bearer {KEY}"]) is not None
    assert len(set(compared)) == 2


def test_a_key_names_its_tenants() -> None:
    """Those it may see, or None for everybody's."""
    abc, everybody = (
        ring.caller_of([f"Bearer {KEY}"]),
        ring.caller_of(["bearer all-key-0123456789"]),
    )

    assert abc is not None
    assert abc.tenants == frozenset({"restaurant-abc"})
    assert everybody is not None
    assert everybody.tenants is None
    assert abc.id != everybody.id


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        [KEY],
        ["Bearer"],
        ["Bearer "],
        [f"Basic {KEY}"],
        [f"Bearer {KEY}x"],
        [f"Bearer {KEY[:-1]}"],
        [f"Bearer {KEY.upper()}"],
        [f"Bearer {KEY} {KEY}"],
        [f"Bearer {KEY}", f"Bearer {KEY}"],
        ["Bearer \xff\ud800"],
        ["Bearer a.b.c"],
    ],
)
def test_any_other_header_names_no_caller(headers: list[str]) -> None:
    """A key fits as a whole, once, behind its scheme."""
    assert ring.caller_of(headers) is None


@given(st.text())
def test_no_header_breaks_the_keyring(text: str) -> None:
    """Whatever a stranger sends is nobody, and no exception."""
    assert ring.caller_of([f"Bearer {text}"]) is None


def test_a_token_is_as_good_as_a_key() -> None:
    """It names the tenants, and who calls: the same caller when it is renewed."""
    first = ring.caller_of([f"Bearer {token()}"])
    renewed = ring.caller_of([f"Bearer {token(exp=LATER + timedelta(days=1))}"])
    other = ring.caller_of([f"Bearer {token(sub='agent-2', tenants='*')}"])

    assert first is not None
    assert first == renewed
    assert first.tenants == frozenset({"restaurant-abc"})
    assert other is not None
    assert other.tenants is None
    assert other.id != first.id


def test_callers_never_share_a_name() -> None:
    """Limits and idempotency keys are theirs: with a subject or none, and however it is spelled."""
    claims: list[dict[str, Any]] = [
        {"sub": "a b", "tenants": ["x"]},
        {"sub": None, "tenants": ["a", "b"]},
        {"sub": None, "tenants": ["a b"]},
        {"sub": None, "tenants": "*"},
        {"sub": "*", "tenants": "*"},
        {"sub": "", "tenants": "*"},
        {"sub": None, "tenants": ["a", "b"], "iss": ""},
        {"sub": "a b", "tenants": ["x"], "iss": "null"},
        {"sub": "abc", "tenants": ["x"]},
    ]
    callers = [ring.caller_of([f"Bearer {token(**each)}"]) for each in claims]
    callers.append(ring.caller_of([f"Bearer {KEY}"]))

    assert None not in callers
    assert len({caller and caller.id for caller in callers}) == len(callers)


def test_an_address_is_no_callers_name() -> None:
    """Behind a proxy an address is what a client wrote into a header."""
    guard = Guard(ring, Limiter(RateLimit(per_minute=1)))
    caller = ring.caller_of([f"Bearer {KEY}"])
    assert caller is not None
    with pytest.raises(HTTPException, match="401"):
        guard.admit([], str(caller.id))

    assert guard.admit([f"Bearer {KEY}"], "192.0.2.1") == caller


@pytest.mark.parametrize(
    "offered",
    [
        token(tenants=["\ud800"]),
        token(tenants=["restaurant-abc", "\0"]),
        token(sub="\udfff"),
        token(iss="\ud800"),
        token(other={"\ud800": ["\ud800"]}),
        token(exp=float("inf")),
        token(nbf=float("-inf")),
        token(exp=float("nan")),
        token(iat=1e308),
        token(exp=datetime(2020, 1, 1, tzinfo=UTC)),
        token(nbf=LATER),
        token(exp=None),
        token(exp="soon"),
        token(tenants=None),
        token(tenants=[]),
        token(tenants="restaurant-abc"),
        token(tenants=[1]),
        token(tenants=["*"]),
        token(tenants={"restaurant-abc": True}),
        token("another secret of at least 32 bytes!!"),
        token("x" * 64, "HS512"),
        unsigned({"alg": "none", "typ": "JWT"}),
        unsigned({"alg": "NONE"}),
        unsigned({"alg": "HS256"}, "AAAA"),
        unsigned({"alg": None}),
        token()[:-2],
        "." * 2,
        base64.urlsafe_b64encode(b"[" * 20_000).decode().rstrip("=") + ".e30.AAAA",
    ],
)
def test_any_other_token_names_no_caller(offered: str) -> None:
    """Expired, early, unsigned, signed otherwise, without an end or without tenants."""
    assert ring.caller_of([f"Bearer {offered}"]) is None


@pytest.mark.parametrize(
    ("rules", "claims", "welcome"),
    [
        ({"audience": "convsync"}, {"aud": "convsync"}, True),
        ({"audience": "convsync"}, {"aud": ["other", "convsync"]}, True),
        ({"audience": "convsync"}, {"aud": "other"}, False),
        ({"audience": "convsync"}, {}, False),
        ({}, {"aud": "other"}, True),
        ({"issuer": "https://login.example"}, {"iss": "https://login.example"}, True),
        ({"issuer": "https://login.example"}, {"iss": "https://evil.example"}, False),
        ({"issuer": "https://login.example"}, {}, False),
    ],
)
def test_audience_and_issuer_count_where_they_are_configured(
    rules: dict[str, Any], claims: dict[str, Any], welcome: bool
) -> None:
    """A token for another service is none for this one."""
    strict = Keyring(jwt=JwtRules(key=SECRET, **rules))

    assert (strict.caller_of([f"Bearer {token(**claims)}"]) is not None) is welcome


def pems(private: PrivateKeyTypes) -> tuple[str, str]:
    """Private and public key."""
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return secret.decode(), public.decode()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_public_key_checks_tokens_and_signs_none(algorithm: Any) -> None:
    """The public key, used as a secret, is the classic forgery."""
    private, public = pems(
        rsa.generate_private_key(65537, 2048)
        if algorithm == "RS256"
        else ec.generate_private_key(ec.SECP256R1())
    )
    strict = Keyring(jwt=JwtRules(key=public, algorithm=algorithm))
    header = {"alg": "HS256", "typ": "JWT"}
    body = unsigned(header).removesuffix(".")
    forged = jwt.get_algorithm_by_name("HS256").sign(body.encode(), public.encode())
    signature = base64.urlsafe_b64encode(forged).decode().rstrip("=")

    assert strict.caller_of([f"Bearer {token(private, algorithm)}"]) is not None
    assert strict.caller_of([f"Bearer {body}.{signature}"]) is None
    assert strict.caller_of([f"Bearer {token()}"]) is None


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"key": "short"}, "shorter than 32 bytes"),
        ({"key": SECRET, "algorithm": "RS256"}, "needs a public key in PEM"),
        ({"key": SECRET, "algorithm": "ES256"}, "needs a public key in PEM"),
        ({"key": pems(ec.generate_private_key(ec.SECP256R1()))[1]}, "needs a secret, no PEM"),
    ],
)
def test_a_key_that_does_not_fit_is_told_at_the_start(rules: dict[str, Any], told: str) -> None:
    """Instead of refusing every token, or accepting forged ones."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        JwtRules(**rules)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "settings", "told"),
    [
        ("short", {}, "at least 16 characters"),
        ("with spaces 0123456789", {}, "without spaces"),
        ("ñandú-0123456789-abc", {}, "ASCII"),
        (KEY, {"name": ""}, "name of an API key is empty"),
        (KEY, {"tenants": []}, "tenants must be a list"),
        (KEY, {"tenants": "restaurant-abc"}, "tenants must be a list"),
        (KEY, {"tenants": [""]}, "tenants must be a list"),
    ],
)
def test_a_malformed_key_is_a_configuration_error(
    key: str, settings: dict[str, Any], told: str
) -> None:
    """With what to write instead, and without the key."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        ApiKey.of(key, **{"name": "abc", "tenants": "*", **settings})

    assert key not in str(caught.value)


@pytest.mark.parametrize(("name", "key"), [("abc", "other-key-0123456789"), ("other", KEY)])
def test_two_keys_are_two(name: str, key: str) -> None:
    """The same name, or the same key under two names, is a mistake."""
    keys = [ApiKey.of(KEY, name="abc", tenants="*"), ApiKey.of(key, name=name, tenants="*")]

    with pytest.raises(ConfigurationError, match="two API keys"):
        Keyring(keys)


def test_no_secret_shows() -> None:
    """Neither key nor hash in what is printed or logged."""
    shown = repr([ApiKey.of(KEY, name="abc", tenants="*"), JwtRules(key=SECRET)])

    assert KEY not in shown
    assert SECRET not in shown
    assert "sha256" not in shown
