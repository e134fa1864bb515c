"""``convsync replay``: recorded talks, played to your bot as it is now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from xml.etree import ElementTree

import typer

from langchain_convsync._lines import count_of
from langchain_convsync.cli._dev import BotId, Demo, Subdomain, Target, target_of
from langchain_convsync.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from langchain_convsync.workbench.replaying import Played

#: What no XML may hold.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class How(StrEnum):
    """How words are compared."""

    NONE = "none"
    CONTAINS = "contains"
    EXACT = "exact"


def replay(
    cases: Annotated[
        Path, typer.Argument(metavar="CASES", help="A case's file, or a folder with all below it.")
    ],
    runner: Target = None,
    *,
    demo: Demo = False,
    words: Annotated[
        How,
        typer.Option(
            help="How what the bot says is compared: none; contains, each text of the case is "
            "said; exact, letter by letter. Marks, spaces and case do not count."
        ),
    ] = How.NONE,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Play each case so often.")] = 1,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what became of them as JUnit's XML.")
    ] = None,
    subdomain: Subdomain = "restaurant-abc",
    bot_id: BotId = "65a1b2c3d4e5f60718293a4b",
) -> None:
    """Play cases to your bot, and tell what is different: state, tools, and words if you ask.

    API server, WAHA and store are in memory, as for convsync chat. Ends with 1 if a case differs.
    """
    target = target_of(runner, demo=demo)
    try:
        from langchain_convsync.workbench.cases import cases_in
        from langchain_convsync.workbench.replaying import Replay
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langchain_convsync"):
            raise
        raise MissingExtraError("convsync replay", "server") from error
    found = cases_in([cases])
    all_played: list[Played] = []
    with Replay(target, subdomain=subdomain, bot_id=bot_id) as playing:
        for case in found:
            played = [playing.play(case, words=words.value) for _ in range(runs)]
            all_played += played
            _tell(played)
    differing = {each.case.name for each in all_played if not each.is_same}
    typer.echo(f"{count_of(len(found), 'case')}, {count_of(len(differing), 'differs', 'differ')}")
    if junit is not None:
        _write(junit, all_played)
    if differing:
        raise typer.Exit(1)


def _tell(played: Sequence[Played]) -> None:
    """What became of one case; of its runs the first one that differs."""
    different = [each for each in played if not each.is_same]
    took = f"{sum(each.seconds for each in played):.1f} s"
    if not different:
        typer.echo(f"ok       {played[0].case.name} ({took})")
        return
    often = f" in {len(different)} of {len(played)} runs" if len(played) > 1 else ""
    typer.echo(f"differs  {played[0].case.name}{often} ({took})")
    for line in different[0].differences:
        typer.echo(line)


def _write(file: Path, played: Sequence[Played]) -> None:
    """A test case for each run."""
    failed = sum(not each.is_same for each in played)
    suite = ElementTree.Element(
        "testsuite", name="convsync replay", tests=str(len(played)), failures=str(failed)
    )
    for each in played:
        test = ElementTree.SubElement(
            suite,
            "testcase",
            classname="convsync.replay",
            name=_xml(each.case.name),
            time=f"{each.seconds:.3f}",
        )
        if not each.is_same:
            failure = ElementTree.SubElement(test, "failure", message="differs")
            failure.text = _xml("\n".join(each.differences))
    try:
        ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise ConfigurationError(message) from error


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
