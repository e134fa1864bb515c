"""What reaches WAHA's parser: signed bytes, and strict JSON."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from langchain_convsync import waha
from langchain_convsync.errors import ConfigurationError, InvalidEventError

PAYLOADS = Path(__file__).parents[1] / "payloads"
VECTOR = json.loads((PAYLOADS / "50_hmac_vector.json").read_text(encoding="utf-8"))
RAW = (PAYLOADS / "50_hmac_vector.body.txt").read_bytes()
KEY = VECTOR["key"]
SIGNATURE = VECTOR["X-Webhook-Hmac"]
SIGNED = {"X-Webhook-Hmac": SIGNATURE, "X-Webhook-Hmac-Algorithm": "sha512"}


@pytest.mark.parametrize(
    "headers",
    [
        SIGNED,
        {name.lower(): value for name, value in SIGNED.items()},
        {name.upper(): value for name, value in SIGNED.items()},
        {"X-Webhook-Hmac": SIGNATURE},
        {**SIGNED, "X-Webhook-Hmac-Algorithm": "SHA512"},
    ],
)
@pytest.mark.parametrize("secrets", [KEY, SecretStr(KEY), ["old", KEY], (KEY, SecretStr("old"))])
def test_a_signed_delivery_is_verified(headers: dict[str, str], secrets: Any) -> None:
    """WAHA's own test vector, with header names in any case and several keys for rotation."""
    assert waha.verify(RAW, headers, secrets)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither how much of a signature is right nor which key made it shows in the time taken."""
    compared: list[tuple[str, str]] = []

    def noting(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    watched = SimpleNamespace(compare_digest=noting, digest=hmac.digest)
    monkeypatch.setattr("langchain_convsync.waha.signature.hmac", watched)

    assert waha.verify(RAW, SIGNED, [KEY, "old", "older"])
    assert [pair[1] for pair in compared] == [SIGNATURE] * 3
    assert [SIGNATURE in pair[:1] for pair in compared] == [True, False, False]


def test_secrets_may_be_any_iterable() -> None:
    """One that can be read once is enough."""
    assert waha.verify(RAW, SIGNED, (key for key in ("old", KEY)))


ODD_HEADERS: list[dict[Any, Any]] = [
    {},
    {"X-Webhook-Hmac": ""},
    {"X-Webhook-Hmac": SIGNATURE.upper()},
    {"X-Webhook-Hmac": f" {SIGNATURE}"},
    {"X-Webhook-Hmac": f"sha512={SIGNATURE}"},
    {"X-Webhook-Hmac": SIGNATURE[:-1]},
    {"X-Webhook-Hmac": f"{SIGNATURE}0"},
    {"X-Webhook-Hmac": "ñ" * 128},
    {"X-Webhook-Hmac": "\ud800" * 128},
    {"X-Webhook-Hmac": "\0"},
    {"X-Webhook-Hmac": None},
    {"X-Webhook-Hmac": [SIGNATURE]},
    {"X-Webhook-Hmac": SIGNATURE.encode()},
    {"X-Webhook-Hmac": 7},
    {b"X-Webhook-Hmac": SIGNATURE},
    {"X-Webhook-Hmac": SIGNATURE, "x-webhook-hmac": "0" * 128},
    {**SIGNED, "X-Webhook-Hmac-Algorithm": "sha256"},
    {**SIGNED, "X-Webhook-Hmac-Algorithm": ""},
    {**SIGNED, "X-Webhook-Hmac-Algorithm": None},
    {"X-Webhook-Hmac": hmac.new(KEY.encode(), RAW, hashlib.sha256).hexdigest()},
]


@pytest.mark.parametrize("headers", ODD_HEADERS)
def test_anything_else_is_refused_without_an_error(headers: dict[Any, Any]) -> None:
    """A forged header is a 401, never a 500."""
    assert waha.verify(RAW, headers, KEY) is False


@pytest.mark.parametrize("raw", [b"", RAW + b" ", RAW.replace(b"WEBJS", b"NOWEB")])
def test_another_body_is_refused(raw: bytes) -> None:
    """The signature is over the exact bytes."""
    assert not waha.verify(raw, SIGNED, KEY)


@given(st.binary(max_size=200), st.text(), st.text(min_size=1).filter(lambda key: key != KEY))
@settings(max_examples=300)
def test_no_forgery_is_verified(raw: bytes, signature: str, key: str) -> None:
    """Neither a made-up signature nor one of another key."""
    forged = hmac.new(key.encode("utf-8", "replace"), RAW, hashlib.sha512).hexdigest()
    assert not waha.verify(raw, {"X-Webhook-Hmac": signature}, KEY)
    assert not waha.verify(RAW, {"X-Webhook-Hmac": forged}, KEY)


@given(st.binary(max_size=200), st.text(st.characters(codec="utf-8")).filter(str.strip))
def test_every_key_signs_every_body(raw: bytes, key: str) -> None:
    """Keys and bodies are any bytes."""
    signature = hmac.new(key.encode(), raw, hashlib.sha512).hexdigest()
    assert waha.verify(raw, {"x-webhook-hmac": signature}, ["other", key])


@pytest.mark.parametrize("secrets", ["", [], (), [""], [KEY, ""], SecretStr(""), None])
def test_an_empty_secret_is_a_configuration_error(secrets: Any) -> None:
    """Anybody can sign with an empty key: an open webhook is opened by not calling verify."""
    with pytest.raises(ConfigurationError, match="waha_secrets"):
        waha.verify(RAW, SIGNED, secrets)


def test_json_is_parsed() -> None:
    """Duplicate keys and large numbers are JSON, too."""
    assert waha.parse_json(b'{"a": 1, "a": [9007199254740993, "\\ud83c\\udf55"]}') == {
        "a": [9007199254740993, "🍕"]
    }


def test_nesting_has_a_limit() -> None:
    """A hundred levels are more than WhatsApp's quotes of quotes need."""
    assert waha.parse_json(b"[" * 100 + b"]" * 100)
    for levels in (101, 1_000, 100_000):
        with pytest.raises(InvalidEventError, match="nested"):
            waha.parse_json(b"[" * levels + b"]" * levels)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"51999999999,",
        b'{"phone": "51999999999"',
        b"NaN",
        b'{"a": Infinity}',
        b"[-Infinity]",
        b"'51999999999'",
        b'"\xff51999999999"',
        b'{"a": 1}\0',
        b"9" * 5000,
    ],
)
def test_what_is_no_json_is_refused_without_repeating_it(raw: bytes) -> None:
    """The error is for a log, the body is not."""
    with pytest.raises(InvalidEventError) as caught:
        waha.parse_json(raw)
    assert "51999999999" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@given(st.binary())
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """Malformed is a 400, never a 500."""
    try:
        value = waha.parse_json(raw)
    except InvalidEventError:
        return
    assert json.loads(json.dumps(value)) == value
