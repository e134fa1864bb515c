"""Bodies are decoded within bounds; failures say whether a request may have arrived."""

from __future__ import annotations

import errno
import gzip

import httpcore
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.client._exchange import Body, Unusable, failure


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces."""
    ends = sorted({min(place, len(data)) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(
    st.binary(max_size=2000),
    st.lists(st.integers(0, 2000)),
    st.sampled_from(["", "identity", "gzip", "x-gzip", " GZIP "]),
)
def test_a_body_is_the_same_in_whatever_pieces_it_comes(
    data: bytes, places: list[int], encoding: str
) -> None:
    """Decoded on the way."""
    zipped = "gzip" in encoding.lower()
    body = Body({"Content-Encoding": encoding})
    for piece in cut(gzip.compress(data) if zipped else data, places):
        body.feed(piece)

    assert body.content() == data


LIMIT = 150


def decoded(data: bytes, *, zipped: bool, places: list[int]) -> bytes:
    """What becomes of a body under a small limit."""
    body = Body({"Content-Encoding": "gzip"} if zipped else {}, LIMIT)
    for piece in cut(gzip.compress(data) if zipped else data, places):
        body.feed(piece)
    return body.content()


@given(st.binary(max_size=LIMIT), st.booleans(), st.lists(st.integers(0, LIMIT)))
def test_a_body_up_to_the_limit_passes(data: bytes, zipped: bool, places: list[int]) -> None:
    """Counted after decoding."""
    assert decoded(data, zipped=zipped, places=places) == data


@given(
    st.binary(min_size=LIMIT + 1, max_size=2 * LIMIT), st.booleans(), st.lists(st.integers(0, 300))
)
def test_a_body_beyond_the_limit_is_refused(data: bytes, zipped: bool, places: list[int]) -> None:
    """One byte is enough, in whatever pieces it comes."""
    with pytest.raises(Unusable, match=f"larger than {LIMIT} bytes") as told:
        decoded(data, zipped=zipped, places=places)

    assert told.value.failure.kind == "size"


@pytest.mark.parametrize("declared", [str(LIMIT + 1), "9" * 5000])
def test_a_body_that_says_it_is_too_large_is_not_read(declared: str) -> None:
    """Its first byte is refused."""
    with pytest.raises(Unusable, match=f"larger than {LIMIT} bytes"):
        Body({"Content-Length": declared}, LIMIT).feed(b"x")


def test_a_gzip_without_its_end_is_a_broken_connection() -> None:
    """Not an empty answer, and not half of one."""
    body = Body({"Content-Encoding": "gzip"})
    body.feed(gzip.compress(b"{}")[:-1])

    with pytest.raises(Unusable, match="end of the answer") as told:
        body.content()

    assert told.value.failure.kind == "connection"


def test_no_body_needs_no_encoding() -> None:
    """A 204 may carry the header all the same."""
    assert Body({"Content-Encoding": "gzip"}).content() == b""
    assert Body({"Content-Encoding": "br"}).content() == b""


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_an_encoding_that_was_not_asked_for_is_refused(encoding: str) -> None:
    """Nothing else is unpacked."""
    with pytest.raises(Unusable, match="Content-Encoding"):
        Body({"Content-Encoding": encoding}).feed(b"x")


def caused(error: httpx.RequestError, cause: Exception) -> httpx.RequestError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "sent"),
    [
        (httpx.ConnectError("refused"), "connection", False),
        (httpx.PoolTimeout("full"), "timeout", False),
        (httpx.ProxyError("403"), "connection", False),
        (httpx.LocalProtocolError("bad header"), "connection", False),
        (caused(httpx.ConnectTimeout(""), httpcore.ConnectTimeout()), "timeout", False),
        (httpx.ConnectTimeout("what aiohttp's transport calls a disconnect"), "connection", True),
        (caused(httpx.ConnectTimeout(""), ConnectionRefusedError()), "connection", False),
        (httpx.ReadTimeout(""), "timeout", True),
        (httpx.WriteTimeout(""), "timeout", True),
        (httpx.ReadError(""), "connection", True),
        (httpx.WriteError(""), "connection", True),
        (httpx.RemoteProtocolError("+51999999999"), "connection", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_failure_knows_whether_the_request_may_have_arrived(
    error: httpx.RequestError, kind: str, sent: bool
) -> None:
    """When in doubt, it may."""
    failed = failure(error)

    assert (failed.kind, failed.sent) == (kind, sent)
    assert "999999999" not in failed.reason


def test_a_failure_names_the_system_s_own_reason() -> None:
    """Found below whatever wraps it, a group of failed addresses included."""
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")
    group = ExceptionGroup("several addresses", [refused, OSError("another")])
    error = caused(httpx.ConnectError("all failed"), caused(httpx.ConnectError(""), group))

    failed = failure(error)

    assert failed.cause is refused
    assert failed.reason == "no connection: Connection refused"
