"""Where a file lies that WAHA tells of, and what it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.waha.files import file_path, is_animated, kind_of, text_of_file
from tests.files import AAC, ANIMATED, DOCX, JPEG, MP3, MP4, PDF, PNG, VOICE, WEBP, ZIP


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:3000/api/files/default/3A.jpg",
        "http://127.0.0.1:8080/api/files/default/3A.jpg",
        "https://waha.example.com/api/files/default/3A.jpg",
        "https://example.com/behind/a/proxy/api/files/default/3A.jpg?x-api-key=1#2",
        "http://[::1]:3000/api/files/default/3A.jpg",
        "HTTP://LOCALHOST/api/files/default/3A.jpg",
        "/api/files/default/3A.jpg",
    ],
)
def test_a_file_of_wahas_is_known_by_its_path(url: str) -> None:
    """Whatever address WAHA believes to have."""
    assert file_path(url) == "/api/files/default/3A.jpg"


def test_a_name_of_older_versions_is_kept() -> None:
    """It holds the chat id."""
    url = "http://localhost:3000/api/files/true_5199@c.us_AA%20A.jpg"
    assert file_path(url) == "/api/files/true_5199%40c.us_AA%20A.jpg"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/admin",
        "https://bucket.s3.amazonaws.com/default/3A.jpg?X-Amz-Signature=1",
        "https://github.com/devlikeapro/waha/raw/core/examples/dev.likeapro.jpg",
        "file:///api/files/default/3A.jpg",
        "ftp://localhost/api/files/3A.jpg",
        "data:image/jpeg;base64,/9j/",
        "javascript:/api/files/1",
        "http://localhost:3000@evil.example/api/files/3A.jpg",
        "http://evil.example@localhost:3000/api/files/3A.jpg",
        "http://user:secret@localhost:3000/api/files/3A.jpg",
        "http://localhost:3000/api/files/../sessions",
        "http://localhost:3000/api/files/..%2fsessions",
        "http://localhost:3000/api/files/%2e%2e/sessions",
        "http://localhost:3000/api/files/%2E%2E%2Fsessions",
        "http://localhost:3000/api/files/a/./b",
        "http://localhost:3000/api/files/..\\sessions",
        "http://localhost:3000/api/files/..%5csessions",
        "http://localhost:3000/api/files/a%00.jpg",
        "http://localhost:3000/api/files/a%0d%0aX-Injected: 1",
        "http://localhost:3000/api/files//etc/passwd",
        "http://localhost:3000/api/files/",
        "http://localhost:3000/api/screenshot?session=default",
        "http://localhost:3000/api/sessions?all=true#/api/files/1",
        "http://localhost:3000/api/sessions?u=/api/files/1",
        "http://[::1/api/files/1",
        "",
        "3A.jpg",
    ],
)
def test_what_is_no_file_of_wahas_is_refused(url: str) -> None:
    """With WAHA's key, other paths would show sessions and codes to scan."""
    assert file_path(url) is None


@given(st.text() | st.text().map("http://localhost:3000/api/files/{}".format))
def test_whatever_a_url_says_no_path_leads_elsewhere(url: str) -> None:
    """Nothing is raised, either."""
    path = file_path(url)

    assert path is None or (
        path.startswith("/api/files/")
        and path.isascii()
        and path.isprintable()
        and not {"", ".", ".."} & set(path.removeprefix("/api/files/").split("/"))
        and not set("?#\\") & set(path)
    )


@pytest.mark.parametrize(
    ("data", "declared", "kind"),
    [
        (JPEG, "image/jpeg", "image/jpeg"),
        (PNG, "image/jpeg", "image/png"),
        (WEBP, None, "image/webp"),
        (b"GIF89a", "image/gif", "image/gif"),
        (PDF, "application/octet-stream", "application/pdf"),
        (VOICE, "audio/ogg; codecs=opus", "audio/ogg"),
        (MP3, "audio/mpeg", "audio/mpeg"),
        (b"ID3\x04", "audio/mp3", "audio/mpeg"),
        (AAC, "audio/aac", "audio/aac"),
        (b"RIFF\x00\x00\x00\x00WAVE", "audio/x-wav", "audio/wav"),
        (MP4, "video/mp4", "video/mp4"),
        (MP4, "audio/mp4", "audio/mp4"),
        (MP4, "image/jpeg", "video/mp4"),
        (ZIP, DOCX, DOCX),
        (ZIP, "application/zip", "application/zip"),
        (ZIP, "image/jpeg", "application/zip"),
        (b"un,dos\n", "text/csv", "text/csv"),
        (b'{"a": 1}', "application/json; charset=utf-8", "application/json"),
        (b"<!DOCTYPE html><html>", "image/jpeg", None),
        (b"<html>", None, None),
        (b"MZ\x90\x00", "text/plain", None),
        ("menú".encode("utf-16"), "text/plain", None),
        (b"\xff", "audio/mpeg", None),
        (b"", "text/plain", None),
    ],
)
def test_a_file_is_what_its_bytes_say(data: bytes, declared: str | None, kind: str | None) -> None:
    """What its message declares tells what is inside of a container, and texts."""
    assert kind_of(data, declared) == kind


@given(st.binary(), st.text() | st.none())
def test_any_bytes_are_something_or_nothing(data: bytes, declared: str | None) -> None:
    """Nothing is raised."""
    kind_of(data, declared)
    is_animated(data)
    text_of_file(data)


def test_a_sticker_that_moves_is_known() -> None:
    """Models take still ones."""
    assert [is_animated(each) for each in (ANIMATED, WEBP, JPEG, b"")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_text_is_read_as_it_was_written() -> None:
    """On a phone, or by a spreadsheet on Windows."""
    assert text_of_file("\ufeffmenú".encode()) == "menú"
    assert text_of_file("menú".encode("cp1252")) == "menú"
