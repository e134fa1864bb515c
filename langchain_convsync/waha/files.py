"""The files of messages: where WAHA keeps one, and takes one; what it is by its own bytes.

WAHA names a file by the address that it believes to have, ``http://localhost:3000/api/files/…``
unless its ``WAHA_BASE_URL`` says otherwise, whatever it is reached by. So the path alone counts.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.phone import path_segment

#: Where WAHA serves files.
_FILES = "/api/files/"
#: How a file of a kind begins, at which byte.
_BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"#!AMR", "audio/amr"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
)
#: Containers, and what a message may rightly call one of each.
_INSIDE = {
    "video/mp4": re.compile(r"audio/(mp4|x-m4a|m4a|aac)"),
    "video/webm": re.compile(r"audio/webm"),
    "application/zip": re.compile(
        r"application/vnd\.(openxmlformats-officedocument|oasis\.opendocument)\.[\w.-]+"
    ),
    "application/x-ole-storage": re.compile(r"application/(msword|vnd\.ms-(excel|powerpoint))"),
}
#: What WhatsApp shows as a picture.
_PICTURES = frozenset({"image/jpeg", "image/png", "image/webp"})
_TEXT = re.compile(r"text/[\w.+-]+|application/(json|xml|csv|x-ndjson|yaml|x-yaml)")
_UNPRINTABLE = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def file_path(url: str) -> str | None:
    """The path below WAHA's own address at which it keeps the file that a URL names.

    None where the URL names no file of WAHA's: the host means nothing, but a path that is not below
    ``/api/files/`` does, or that climbs out of it, credentials, and other schemes than http.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    _, found, rest = parts.path.partition(_FILES)
    if parts.scheme not in {"", "http", "https"} or "@" in parts.netloc or not found:
        return None
    names = [unquote(name) for name in rest.split("/")]
    if any("/" in name or "\\" in name for name in names):
        return None
    try:
        return _FILES + "/".join(map(path_segment, names))
    except ConfigurationError:  # empty, a dot segment, a control character
        return None


def kind_of(data: bytes, declared: str | None) -> str | None:
    """What a file is, as a MIME type without parameters; None where that cannot be told.

    Its own bytes decide. What its message declares only tells what a container holds, and that what
    has no such bytes is a text.
    """
    told = (declared or "").partition(";")[0].strip().lower()
    found = next((kind for at, begins, kind in _BEGINNINGS if data.startswith(begins, at)), None)
    if found is None and len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
        layer = data[1] >> 1 & 3  # AAC has none; a UTF-16 text would be of the first
        found = {0: "audio/aac", 1: "audio/mpeg", 2: "audio/mpeg"}.get(layer)
    if found is not None:
        inside = _INSIDE.get(found)
        return told if inside is not None and inside.fullmatch(told) else found
    if is_text(told) and data and not _UNPRINTABLE.search(data):
        return told
    return None


def sending_path(kind: str, *, voice: bool = False) -> str:
    """Where WAHA takes a file of a MIME type: as a picture, a voice message, or a document.

    Protocol: https://waha.devlike.pro/docs/how-to/send-messages/.
    """
    if voice:
        return "/api/sendVoice"
    is_picture = kind.partition(";")[0].strip().lower() in _PICTURES
    return "/api/sendImage" if is_picture else "/api/sendFile"


def is_voice(kind: str) -> bool:
    """Whether audio of a MIME type is what WhatsApp plays as a voice message."""
    return re.match(r"audio/(ogg|opus)\b", kind) is not None


def is_text(kind: str) -> bool:
    """Whether a MIME type is one of plain text."""
    return _TEXT.fullmatch(kind) is not None


def is_animated(data: bytes) -> bool:
    """Whether an image in WebP moves, as many stickers do: models take still ones only."""
    return data[12:16] == b"VP8X" and len(data) > 20 and bool(data[20] & 0x02)


def text_of_file(data: bytes) -> str:
    """A file that is text: UTF-8, else as spreadsheets in Windows write it."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
