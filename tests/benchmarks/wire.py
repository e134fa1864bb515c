"""HTTP/1.1 among parties that trust each other: whole messages, one at a time."""

from __future__ import annotations


def taken_from(got: bytearray) -> tuple[str, bytes] | None:
    """Head and body of the message in a buffer, which is empty then; None while it is not whole."""
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = got[:end].decode("latin-1")
    at = head.lower().find("content-length:")
    length = int(head[at + 15 :].split("\r\n", 1)[0]) if at >= 0 else 0
    if len(got) < end + 4 + length:
        return None
    body = bytes(got[end + 4 : end + 4 + length])
    got.clear()
    return head, body
