"""What the bot says, as an agent may give it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from langchain_convsync import Reply

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def test_one_text_needs_no_list() -> None:
    """A single text is a reply of one."""
    assert Reply(texts="Hola") == Reply(texts=["Hola"])


def test_silence_says_nothing() -> None:
    """It is told apart from whatever else an agent may return."""
    assert Reply.silent.is_silent
    assert not Reply(texts=["Hola"]).is_silent
    assert not Reply(file=PNG).is_silent


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (
            {"file": "https://e.com/carta.pdf", "caption": "Menú"},
            "application/pdf",
            "Menú\n[document: carta.pdf]",
        ),
        ({"file": PNG}, "image/png", "[image]"),
        (
            {"file": PNG, "filename": "a.bin", "mimetype": "image/gif"},
            "image/gif",
            "[image: a.bin]",
        ),
        ({"file": b"OggS", "voice": True, "caption": "Hola"}, "audio/ogg", "Hola\n[voice message]"),
        ({"file": "https://e.com/"}, "application/octet-stream", "[document]"),
    ],
)
def test_a_file_is_its_caption_and_its_kind(given: dict[str, Any], kind: str, words: str) -> None:
    """That is what the history holds of it."""
    reply = Reply(**given)
    assert (reply.kind, reply.words, reply.text) == (kind, words, words)


def test_texts_and_a_file_are_one_text_in_the_history() -> None:
    """In the order in which they are sent."""
    reply = Reply(texts=["Uno", "Dos"], file=PNG, caption="Tres")
    assert reply.text == "Uno\n\nDos\n\nTres\n[image]"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"texts": ["Hola", " "]}, "Reply.silent"),
        ({"file": "/srv/menu.pdf"}, "read_bytes()"),
        ({"file": "https://["}, "https://"),
        ({"file": b""}, "from 1 byte to 16 MiB"),
        ({"file": bytes(16 * 1024 * 1024 + 1), "mimetype": "video/mp4"}, "pass the URL"),
        ({"file": b"??"}, "pass mimetype= or filename="),
        ({"caption": "Menú"}, "pass file="),
        ({"file": PNG, "voice": True}, "a voice message is audio"),
        ({"text": "Hola"}, "did you mean texts?"),
        ({"silent": True}, "Reply.silent is one by itself"),
        ({"texts": ["Hola"], "expires": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_sent_is_refused_where_it_is_made(given: dict[str, Any], told: str) -> None:
    """With what to pass instead."""
    with pytest.raises(ValidationError) as caught:
        Reply(**given)
    assert told in str(caught.value)


def test_half_characters_are_marked() -> None:
    """No JSON and no database takes one."""
    assert (
        Reply(texts=["a\ud83d"], file=PNG, caption="b\ud83d").text == "a\ufffd\n\nb\ufffd\n[image]"
    )


def test_no_word_of_it_is_in_its_repr() -> None:
    """Reprs end up in logs and traces."""
    shown = repr(Reply(texts=["secreto"], file=PNG, caption="secreto", filename="secreto"))
    assert "secreto" not in shown


def test_a_model_can_be_asked_for_one() -> None:
    """Its schema knows texts and URLs; bytes are for programs."""
    properties = Reply.model_json_schema()["properties"]
    assert properties["file"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert Reply.model_validate({"texts": ["Hola"], "file": None, "caption": ""}).text == "Hola"
