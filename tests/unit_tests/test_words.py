"""Public names are made of ordinary words, and of words that the glossary explains."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest
import typer.main

import langchain_convsync
from langchain_convsync import TurnRunner
from langchain_convsync.cli import command_line
from langchain_convsync.telemetry import METRICS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "words.md"

#: Words that mean what they mean in English.
ENGLISH = frozenset(
    """
    abandoned accept ack acks acquire add age arrived undelivered
    case played read replay
    agent all answer approve as automatic bad base bound by caller
    changed
    chosen closed command committed conceal concurrency configuration confirmed
    conflict connect connection content count create current cut damaged database date
    deduplicated default demo denied discard doctor doing done dropped due duplicate
    extraction failed failure fake field first for forget forgotten format forward forwarding
    found from get groups history host ignored in inbound incomplete info intent invalid is kept
    leftovers limit line linked load longest lookup lost main max memory mended message
    method minute mismatch missing most moved name new newer no not note observe of oldest on once
    open ours outcome overlaid own pace page parse pending per permission phase policy port prefix
    prepare progress rate reason recommended recorded ref reference refused rejected
    release rerun resent respond response restricted restriction restrictions
    retry rule run runner scripted second secret silences
    sent serve server show shutdown sign start status target text timed timeout trusted
    type unavailable unknown unnamed unreadable unsent up used value version view watch what why
    with
    withheld yes listened look machine shortages to level like only loop loops stuck adopt
    choice contact kind location media quoted referral transcribe unread
    apart budget digits direction hand handed handoff handoffs hint listener markdown marker over
    refusals said soon upcoming without words
    """.split()  # noqa: SIM905  # a list of a hundred lines is no better to read
)
#: Words of Python, HTTP, LangChain and other systems.
PLATFORM = frozenset(
    """
    aonce api app argument async authentication bot callback client config context conv crc dev
    error exposition extra gauge handler hash http json junit jwt llm log metric middleware model
    proxy redis request router span sqlite subdomain sync tool toolkit url waha
    """.split()  # noqa: SIM905  # a list of a hundred lines is no better to read
)


def words(name: str) -> list[str]:
    """A name's words: ``max_queued`` has two, ``SQLiteEventStore`` three."""
    name = name.replace("SQLite", "Sqlite")
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def stem(word: str) -> str:
    """The same for all forms of a word."""
    return re.sub("y$", "i", re.sub("(ing|ed|es|s|e)$", "", word))


def stems(vocabulary: AbstractSet[str]) -> set[str]:
    """Those of several words."""
    return {stem(word) for word in vocabulary}


def rows() -> list[list[str]]:
    """The glossary: word, meaning, where it is met."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "| **" in line]


def terms() -> list[str]:
    """What the glossary defines: its first column, and what is bold in the others."""
    first = [term.strip(" *") for row in rows() for term in row[0].split(",")]
    return [*first, *(term for row in rows() for term in re.findall(r"\*\*(.+?)\*\*", row[1]))]


def modules() -> Iterator[str]:
    """Everything that a user may import, without what needs a private module."""
    yield "langchain_convsync"
    for module in pkgutil.walk_packages(langchain_convsync.__path__, "langchain_convsync."):
        if not re.search(r"\._", module.name):
            yield module.name


def public_names() -> set[str]:
    """``__all__`` everywhere, what a runner can be told, commands, their options, and metrics."""
    names = {n for m in modules() for n in getattr(importlib.import_module(m), "__all__", ())}
    names |= set(inspect.signature(TurnRunner).parameters)
    for metric in METRICS.values():
        names |= {metric.name, *metric.labels}
    for command, found in typer.main.get_command(command_line()).commands.items():  # type: ignore[attr-defined]  # a group
        names |= {command, *(option for each in found.params for option in each.opts)}
    return names


def unexplained(names: set[str]) -> dict[str, str]:
    """The words that are neither ordinary nor in the glossary, each with a name that has it."""
    known = stems(ENGLISH | PLATFORM | {word for term in terms() for word in words(term)})
    return {word: name for name in sorted(names) for word in words(name) if stem(word) not in known}


def test_every_word_of_a_public_name_is_ordinary_or_explained() -> None:
    """A new one gets its row in docs/words.md; or stands in ENGLISH, if it means what it says."""
    assert unexplained(public_names()) == {}


@pytest.mark.parametrize(
    ("name", "word"),
    [("lane_depth", "lane"), ("ParkedEvent", "parked"), ("--max-errands", "errands")],
)
def test_a_name_of_a_private_dialect_is_found(name: str, word: str) -> None:
    """In any spelling."""
    assert word in unexplained({name})


def test_every_term_of_the_glossary_is_used() -> None:
    """By a public name, or else by the package's own prose."""
    named = {stem(word) for name in public_names() for word in words(name)}
    prose = " ".join(
        path.read_text("utf-8") for path in (ROOT / "langchain_convsync").rglob("*.py")
    )

    assert [
        term
        for term in terms()
        if not {stem(word) for word in words(term)} <= named
        and not re.search(rf"\b{re.escape(term)}", prose)
    ] == []


def test_no_ordinary_word_is_listed_in_vain() -> None:
    """Else the lists would grow until they explain everything."""
    used = {stem(word) for name in public_names() for word in words(name)}
    explained = stems({word for term in terms() for word in words(term)})

    assert {w for w in ENGLISH | PLATFORM if stem(w) not in used or stem(w) in explained} == set()


def test_the_glossary_names_what_there_is() -> None:
    """Each name in its last column is one of the package's."""
    sources = "\n".join(p.read_text("utf-8") for p in (ROOT / "langchain_convsync").rglob("*.py"))
    metrics = {metric.prometheus for metric in METRICS.values()}
    named = [name for row in rows() for name in re.findall(r"`(.+?)`", row[2])]

    for name in named:
        if name.startswith("convsync_"):
            assert name in metrics
        for word in re.findall(r"\w+", name.removeprefix("convsync")):
            assert name in metrics or re.search(rf"\b{word}\b", sources), name


def test_the_glossary_is_in_order_and_short() -> None:
    """To be read in one go."""
    first = [row[0].split("**")[1] for row in rows()]

    assert first == sorted(first)
    assert len(set(terms())) == len(terms())
    assert len(first) <= 40
