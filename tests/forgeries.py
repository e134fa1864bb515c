"""Signatures that somebody without the secret sends, for a body and its true signature."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

#: As ASGI hands them over: several of one name are possible.
Headers = list[tuple[bytes, bytes]]
ALGORITHMS = ("md5", "sha1", "sha256", "sha384", "sha3_512", "blake2b")
OTHER_NAMES = (
    "",
    "none",
    "sha256",
    "sha-512",
    "SHA512/256",
    "sha512 ",
    "\tsha512",
    "sha512,sha512",
)
WHITESPACE = (" ", "\t", "\r\n", "\n", "\0", "\x0b", "\x1c", "\x85", "\xa0")
WRAPPINGS = ("{}={}", "sha512={}{}", "sha512:{}{}", '"{}{}"', "{},{}", "{};{}", "0x{}{}", "{}{}==")


@dataclass(frozen=True)
class Forgery:
    """A delivery that must be refused, and how it was made."""

    kind: str
    raw: bytes
    headers: Headers


def signed(raw: bytes, secret: str, algorithm: str = "sha512") -> str:
    """What a sender that knows the secret puts into ``X-Webhook-Hmac``."""
    return hmac.new(secret.encode(), raw, algorithm).hexdigest()


def forgeries(raw: bytes, secret: str) -> Iterator[Forgery]:
    """All kinds of them; nothing here is a signature of ``raw`` that ``secret`` made."""
    true = signed(raw, secret)
    for kind, text in _digests(raw, secret, true):
        yield Forgery(kind, raw, [_hmac(text)])
    for kind, body in _bodies(raw):
        yield Forgery(kind, body, [_hmac(true), (b"x-webhook-hmac-algorithm", b"sha512")])
    for headers in _other_headers(raw, secret, true):
        yield Forgery("headers", raw, headers)


def _digests(raw: bytes, secret: str, true: str) -> Iterator[tuple[str, str]]:
    for place, digit in enumerate(true):
        for other in "0123456789abcdef":
            if other != digit:
                yield "a digit changed", true[:place] + other + true[place + 1 :]
        yield "cut short", true[:place]
        yield "a digit missing", true[:place] + true[place + 1 :]
        yield "a digit twice", true[:place] + digit + true[place:]
        yield "a space inside", true[:place] + " " + true[place:]
        yield "unicode digit", true[:place] + chr(0xFF10 + int(digit, 16) % 10) + true[place + 1 :]
        if digit.isalpha():
            yield "one digit in upper case", true[:place] + digit.upper() + true[place + 1 :]
    yield "upper case", true.upper()
    yield "reversed", true[::-1]
    yield from (("extended", true + more) for more in ("0", true, "00" * 64, "f" * 10_000))
    yield from (("padded", f"{space}{true}") for space in WHITESPACE)
    yield from (("padded", f"{true}{space}") for space in WHITESPACE)
    yield from (("wrapped", form.format(true, true)) for form in WRAPPINGS)
    yield from (("wrapped", form.format(true, "")) for form in WRAPPINGS if form != "{}{}")
    yield from (("another algorithm", signed(raw, secret, name)) for name in ALGORITHMS)
    yield from (("hash without a key", hashlib.new(name, raw).hexdigest()) for name in ALGORITHMS)
    yield "hash without a key", hashlib.sha512(raw).hexdigest()
    yield "hash of key and body", hashlib.sha512(secret.encode() + raw).hexdigest()
    yield from (("another secret", signed(raw, other)) for other in _secrets(secret))
    yield from (("of another body", signed(body, secret)) for body in (b"", b"{}", raw + b"\n"))
    yield "of its own signature", signed(true.encode(), secret)
    yield from (("nothing", text) for text in ("", "0" * 128, "null", "undefined", "true", "[]"))


def _secrets(secret: str) -> Iterator[str]:
    # Not with a NUL behind it: HMAC fills keys up with those, so that is the same secret.
    yield from ("", " ", f"{secret} ", f" {secret}", f"\0{secret}", secret.upper(), secret[:-1])
    yield from (f"secret {number}" for number in range(2000))


def _bodies(raw: bytes) -> Iterator[tuple[str, bytes]]:
    for place, byte in enumerate(raw):
        for bit in range(8):
            yield (
                "a bit of the body changed",
                raw[:place] + bytes([byte ^ 1 << bit]) + raw[place + 1 :],
            )
        yield "a byte of the body missing", raw[:place] + raw[place + 1 :]
        yield "a byte more in the body", raw[:place] + b" " + raw[place:]
    yield from (("body cut short", raw[:length]) for length in range(len(raw)))
    yield from (("body framed", body) for body in (b"\xef\xbb\xbf" + raw, raw + b"\0", raw * 2))


def _other_headers(raw: bytes, secret: str, true: str) -> Iterator[Headers]:
    wrong = signed(raw, "another")
    yield []
    yield [(b"x-webhook-hmac-sha512", true.encode())]
    yield [(b"x-hub-signature", true.encode())]
    yield [(b"authorization", b"Bearer " + true.encode())]
    yield from ([_hmac(true), _hmac(other)] for other in (true, wrong, ""))
    yield from ([_hmac(other), _hmac(true)] for other in (wrong, ""))
    yield from ([_hmac(true), (b"x-webhook-hmac-algorithm", n.encode())] for n in OTHER_NAMES)
    for name in ALGORITHMS:
        named = (b"x-webhook-hmac-algorithm", name.encode())
        yield [_hmac(signed(raw, secret, name)), named]
        yield [_hmac(true), named]
        yield [_hmac(true), (b"x-webhook-hmac-algorithm", b"sha512"), named]
    times = ("0", "-1", "NaN", "9" * 400, "1735466400000", "\xff", "")
    yield from ([_hmac(wrong), (b"x-webhook-timestamp", t.encode("latin-1"))] for t in times)
    yield from ([_hmac(signed(t.encode() + raw, secret))] for t in ("0", "1735466400000.", "."))


def _hmac(text: str) -> tuple[bytes, bytes]:
    return b"x-webhook-hmac", text.encode("utf-8")
