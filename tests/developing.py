"""``convsync dev`` as a real process: its page's address, and what is asked of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from langchain_convsync.workbench.whatsapp import CUSTOMERS

#: Seconds after which what is waited for will not come.
PATIENCE = 120.0

#: Answers what it hears, with a tool's help; once the file ``go`` is there, where it is to hold.
BOT = """
import time
from pathlib import Path
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_convsync import TurnRunner

WORD = "re"

@tool
def clock(zone: str) -> str:
    "The time."
    return f"noon in {zone}"

def answer(messages):
    said = messages[-1].content
    if "boom" in said:
        raise ValueError("the oven is off")
    while "hold" in said and not Path("go").exists():
        time.sleep(0.01)
    clock.invoke({"zone": "Lima"})
    return AIMessage(f"{WORD}: {said}")

runner = TurnRunner(RunnableLambda(answer), max_errors=1, fallback_reply="One moment, please")
"""


@dataclass
class Page:
    """A page that runs.

    Attributes:
        url: Its address, token included.
        process: What serves it.
        folder: Where it runs.
        customer: The number of who writes: the first customer's.
        since: The last fact before this test: what it is told is behind it.
    """

    url: str
    process: subprocess.Popen[str]
    folder: Path | None = None
    customer: str = "+51999999999"
    since: int = 0
    all_customers: tuple[str, ...] = tuple(each.phone_number for each in CUSTOMERS)

    @property
    def origin(self) -> str:
        """The address without path and token."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def address(self, path: str) -> str:
        """Of something on the page."""
        return f"{self.origin}/{path}?{urlsplit(self.url).query}"

    def met(self) -> Self:
        """The same page, with a customer of the caller's own who has not written yet."""
        number = self.do("meet").json()["done"]["number"]
        return replace(self, customer=number, since=self.until("met", who=number)["n"])

    def do(self, what: str, **given: Any) -> httpx.Response:
        """Ask for something, as the page does."""
        return httpx.post(
            self.address("do"),
            json={"do": what, "who": self.customer} | given,
            headers={"Origin": self.origin},
            trust_env=False,
            timeout=PATIENCE,
        )

    def told(self, after: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the page is told: what it is, and its facts."""
        events = f"{self.address('events')}&after={self.since if after is None else after}"
        until = time.monotonic() + PATIENCE
        with httpx.stream("GET", events, trust_env=False, timeout=PATIENCE) as answer:
            kind = ""
            for line in answer.iter_lines():
                assert time.monotonic() < until, "what was waited for did not happen"
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    yield kind, json.loads(line[6:])

    def until(self, kind: str, *, after: int | None = None, **facts: Any) -> dict[str, Any]:
        """Wait until a fact is told that has these facts, behind that number."""
        for _, fact in self.told(after):
            if fact.get("kind") == kind and facts.items() <= fact.items():
                return fact
        raise AssertionError(kind)  # pragma: no cover - the page has ended

    def settled(self, messages: int, *, who: str = "") -> dict[str, Any]:
        """Wait until a customer wrote and read so many messages, and nothing waits."""
        last: dict[str, Any] = {}
        try:
            for kind, state in self.told():
                if kind == "state" and state["who"] == (who or self.customer):
                    last = state
                    if state["settled"] and state["sent"] >= messages:
                        return state
        except AssertionError as error:  # pragma: no cover - only where a test fails
            error.add_note(f"the last state: {last}")
            raise
        raise AssertionError(messages)  # pragma: no cover - the page has ended


@contextmanager
def developing(folder: Path, *options: str, bot: str = BOT) -> Iterator[Page]:
    """A page for a bot in a folder; ended in the end."""
    (folder / "bot.py").write_text(bot, encoding="utf-8")
    target = [] if "--demo" in options else ["bot:runner"]
    with served(*target, *options, folder=folder) as page:
        yield page


@contextmanager
def served(*arguments: str, folder: Path | None = None) -> Iterator[Page]:
    """What ``convsync dev`` serves, told this and run in a folder; ended in the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "langchain_convsync.cli", "dev", "--no-open", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, process.communicate()[1]
            yield Page(found[0], process, folder)
        finally:
            process.terminate()
            process.communicate()
