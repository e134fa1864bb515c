"""Markdown becomes WhatsApp's formatting, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.waha import from_markdown

TABLE = "| Pizza | **Precio** |\n|---|:-:|\n| Margarita | S/ 20 |\n| [Carta](https://x.pe) | |"


@pytest.mark.parametrize(
    ("markdown", "whatsapp"),
    [
        (
            "**Pizza** [menú](https://x.pe)\n# Ofertas",
            "*Pizza* menú (https://x.pe)\n*Ofertas*",
        ),
        ("**Negrita** y *cursiva* y _más_", "*Negrita* y _cursiva_ y _más_"),
        ("__Negrita__", "*Negrita*"),
        ("***Ambas***", "*_Ambas_*"),
        ("**a *b* c**", "*a _b_ c*"),
        ("~~Antes~~ ahora", "~Antes~ ahora"),
        ("- **Uno**\n* *dos*\n1. tres\n- [ ] cuatro\n- [x] cinco", None),
        ("## **Fuerte** ##\n\nOfertas\n=====", "*Fuerte*\n\n*Ofertas*"),
        ("```python\nx = '**a**'\n\n# b\n```", "```\nx = '**a**'\n\n# b\n```"),
        ("~~~~\na\n~~~~", "```\na\n```"),
        ("Usa `**x**` y **`y`**", "Usa `**x**` y *`y`*"),
        (TABLE, "*Pizza – Precio*\nMargarita – S/ 20\nCarta (https://x.pe)"),
        ("| a \\| b | c |\n|---|---|\n", "*a | b – c*\n"),
        ("![foto](https://e.com/a.png)", "foto (https://e.com/a.png)"),
        ("[https://e.com](https://e.com)", "https://e.com"),
        ("[x](https://e.com/a_(b) 'Título')", "x (https://e.com/a_(b))"),
        ("[llámanos](tel:+5199) [](mailto:a@b.pe)", "llámanos (+5199) a@b.pe"),
        ("[arriba](#menu)", "arriba"),
        ("<https://e.com/_a_> y <mailto:a@b.pe>", "https://e.com/_a_ y a@b.pe"),
        ("**[menú](https://x.pe)**", "*menú (https://x.pe)*"),
        ("uno<br>dos<br/>", "uno\ndos\n"),
        (r"**No** \*literal\* 1\. a\_b", "*No* *literal* 1. a_b"),
        ("***\n* * *\n---", "---\n---\n---"),
        ("**a**b y c**d**", "ab y cd"),
        ("«**x**», ¡**y**!😀", "«*x*», ¡*y*!😀"),
    ],
)
def test_markdown_reads_as_it_was_meant(markdown: str, whatsapp: str | None) -> None:
    """Whatever a model likes to write; what became of it stays as it is."""
    if whatsapp is None:
        whatsapp = "- *Uno*\n* _dos_\n1. tres\n- ☐ cuatro\n- ☑ cinco"
    assert from_markdown(markdown) == whatsapp
    assert from_markdown(whatsapp) == whatsapp


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hola, ¿qué tal? 😀\n\n  S/ 10 * 2 = 20; 3*4*5; 2**3**4\r\n",
        "*Negrita de WhatsApp*, _cursiva_, ~tachado~, `código`, ```más\n\ncódigo```",
        "- uno\n* dos\n1. tres\n> cita",
        "#hashtag, mesa #5, a_b_c, __init__.py, foo.__x__, C:\\_x, ¯\\_(ツ)_/¯",
        "https://e.com/_a_**b**?x=~~1~~#__c__ ana_b_c@e_e.com www.x.pe/__a__",
        "[opción](B), [x] [y] (z), ** suelto **, **sin fin, ~~, *",
        "+51 999 999 999\n- 10 %\n| a | b |\n<b>x</b> &amp; a < b > c",
        "```\nsin fin **a**",
    ],
)
def test_what_is_no_markdown_stays_byte_for_byte(text: str) -> None:
    """Prices, names, addresses, and what is in WhatsApp's formatting already."""
    assert from_markdown(text) == text


@given(st.text(st.characters(exclude_characters="*_~`#[]<>|\\=")))
def test_a_plain_text_stays_as_it_is(text: str) -> None:
    """Whatever its characters are."""
    assert from_markdown(text) == text


pieces = st.sampled_from(
    [*"*_~`#[()]>-ab1\\\n!= ", "**", "__", "~~", "```", "|-|", "](", "<br>", "===", "https://e.com"]
)


@given(st.lists(pieces, max_size=40).map("".join))
def test_no_word_is_lost(text: str) -> None:
    """Whatever it is made of; nothing is raised, and no letter changes its place."""
    plain = text.replace("<br>", "").replace("https://e.com", "")
    kept = from_markdown(text).replace("<br>", "").replace("https://e.com", "")
    assert letters(kept) == letters(plain) or "```" in text


def letters(text: str) -> str:
    """The words of a text."""
    return "".join(filter(str.isalnum, text))


words = st.text("aé1 ,.¡", min_size=1, max_size=8).map(lambda text: f"x{text}x")
spans = st.one_of(
    words,
    st.builds("**{}**".format, words),
    st.builds("*{}*".format, words),
    st.builds("~~{}~~".format, words),
    st.builds("`{}`".format, words),
    st.builds("[{}](https://e.com)".format, words),
)
lines = st.lists(spans, min_size=1, max_size=4).map(" ".join)
blocks = st.one_of(
    lines,
    st.builds("# {}".format, lines),
    st.builds("- {}".format, lines),
    st.builds("```py\n{}\n```".format, lines),
    st.builds("| {} | b |\n|---|---|\n| c | {} |".format, lines, lines),
)


@given(st.lists(blocks, max_size=6).map("\n\n".join))
def test_what_was_formatted_is_not_formatted_again(markdown: str) -> None:
    """A history holds it, and models imitate what they read."""
    once = from_markdown(markdown)
    assert from_markdown(once) == once
    assert "**" not in once.replace("`", "") or "```" in once
