"""A long text becomes several messages: no character is lost, no code is torn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.waha.bubbles import LONGEST_MESSAGE, MOST_BUBBLES, bubbles

CODE = "```python\nx = 1\n\n\ny = 2\n```"

prose = st.text(st.sampled_from("aé😀 \n\t`~*#|-\r\u2028\x0b"), max_size=60)
fence = st.builds(
    lambda mark, inside: f"{mark}\n{inside.replace('`', '').replace('~', '')}\n{mark}",
    st.sampled_from(["```", "~~~", "`````"]),
    st.text(st.sampled_from("ab\n "), max_size=40),
)
longest = st.one_of(st.none(), st.integers(1, 200))


def stripped(text: str) -> str:
    """Its characters that are not blank."""
    return "".join(text.split())


@given(st.lists(st.one_of(prose, fence)).map("\n\n".join), longest)
def test_no_character_is_lost(text: str, longest: int | None) -> None:
    """The messages are the text, but for blank characters at their ends."""
    at = 0
    for piece in bubbles(text, longest):
        found = text.index(piece, at)
        assert not text[at:found].strip()
        assert piece == piece.strip() != ""
        at = found + len(piece)
    assert not text[at:].strip()


@given(st.lists(st.one_of(st.text("aé😀 .", max_size=60), fence), max_size=12), st.integers(1, 200))
def test_code_between_fences_stays_whole(parts: list[str], longest: int) -> None:
    """Blank lines in it split nothing."""
    pieces = bubbles("\n\n".join(parts), longest)

    for part in parts:
        if part.startswith(("`", "~")):
            assert any(part.strip() in piece for piece in pieces)


@given(st.text("ab \n", max_size=400), longest, st.integers(200, 400))
def test_whatsapps_length_is_kept(text: str, longest: int | None, times: int) -> None:
    """Whatever the text is like."""
    text = text * times
    pieces = bubbles(text, longest)

    assert all(0 < len(piece) <= LONGEST_MESSAGE for piece in pieces)
    assert stripped("".join(pieces)) == stripped(text)


@given(st.text("ab \n"), longest)
def test_they_are_few(text: str, longest: int | None) -> None:
    """As no person sends a hundred messages at once; and what is split is not split again."""
    pieces = bubbles(text * 20, longest)

    assert len(pieces) <= MOST_BUBBLES
    assert len(pieces) <= 1 or longest is not None


@pytest.mark.parametrize(
    ("text", "longest", "pieces"),
    [
        ("", 1, []),
        (" \n", 1, []),
        ("Hola", 1, ["Hola"]),
        ("Uno\n\nDos", None, ["Uno\n\nDos"]),
        ("Uno\n\nDos", 1, ["Uno", "Dos"]),
        ("Uno\n \t\nDos\n\n\nTres", 10, ["Uno\n \t\nDos", "Tres"]),
        ("Una línea\ny otra", 1, ["Una línea\ny otra"]),
        (f"Así:\n\n{CODE}\n\nListo", 5, ["Así:", CODE, "Listo"]),
        ("Así: ```a\n\nb``` ya\n\nListo", 5, ["Así: ```a\n\nb``` ya", "Listo"]),
        ("```sin fin\n\na\n\nb", 1, ["```sin fin\n\na\n\nb"]),
        ("~~~\na\n\n```\n\n~~~\n\nb", 1, ["~~~\na\n\n```\n\n~~~", "b"]),
        ("Con ```código``` dentro\n\nb", 1, ["Con ```código``` dentro", "b"]),
        ("x" * (LONGEST_MESSAGE + 3), 1, ["x" * LONGEST_MESSAGE, "xxx"]),
        (f"{'x ' * 40_000}", None, [f"{'x ' * 32_768}".strip(), f"{'x ' * 7_232}".strip()]),
    ],
)
def test_a_text_is_split_where_a_person_would(
    text: str, longest: int | None, pieces: list[str]
) -> None:
    """On blank lines; what fits together stays together."""
    assert bubbles(text, longest) == pieces
