"""``runner.watch()``: the timeline of a process's turns, for a notebook."""

from __future__ import annotations

import subprocess
import sys

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from langchain_convsync import InboundEvent, SQLiteEventStore, TurnRunner
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel

pytestmark = pytest.mark.slow  # a developer's tool, in processes of their own

PHONE = "+51999999999"

#: In a process of its own, since it is watched for good.
WATCHED = """
from tests.integration_tests.test_watch import watched
watched()
"""


@tool
def menu(topic: str) -> str:
    """The menu."""
    return f"<b>{topic}</b>"


def watched() -> None:
    """Three turns, of which one fails, two are watched, and one is watched twice."""
    model = ScriptedChatModel(["Hi & welcome"] * 9)

    def answer(messages: list[AIMessage]) -> AIMessage:
        if "boom" in str(messages[-1].content):
            raise ValueError("the oven is off")
        menu.invoke({"topic": "pizza"})
        return model.invoke(messages)

    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE)
        runner = TurnRunner(
            RunnableLambda(answer),
            client=server.client(),
            store=SQLiteEventStore(":memory:"),
            max_errors=1,
        )
        runner.run(InboundEvent(event_id="0", phone_number=PHONE, text="before"))
        first = runner.watch()
        empty = first._repr_html_()  # type: ignore[attr-defined]  # what notebooks look for
        runner.run(InboundEvent(event_id="1", phone_number=PHONE, text="Hola"))
        second = runner.watch()
        runner.run(InboundEvent(event_id="2", phone_number=PHONE, text="boom"))
        runner.close()
    html = first._repr_html_()  # type: ignore[attr-defined]
    assert "No turn yet" in empty
    read, write = "read the conversation", "write: message"
    assert str(first).splitlines() == [
        "2 turns watched",
        f"turn 1: committed; {read}, agent, menu, scripted, commit, {write}, {write}",
        f"turn 2: committed; {read}, agent, commit, {write}",
    ]
    assert repr(second).startswith("1 turn watched\nturn 1: ")
    for told in ("menu", "pizza", "&lt;b&gt;pizza&lt;/b&gt;", "Hi &amp; welcome", "write: message"):
        assert told in html, told
    assert "ValueError: the oven is off" in html
    assert "write: message" not in empty
    assert PHONE.strip("+") not in html
    assert "<script" not in html
    print("as expected")


def test_a_notebook_sees_each_turn_as_html_without_a_script() -> None:
    """From when it was asked for: models, tools, what was said, errors, and writes; escaped."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED], capture_output=True, text=True, check=False
    )

    assert done.stdout == "as expected\n", done.stderr


def test_a_runner_that_is_not_watched_imports_nothing_of_the_workbench() -> None:
    """Production runs without it."""
    code = (
        "import sys, langchain_convsync as c; from langchain_convsync import app, turns; "
        "c.TurnRunner(None, client=c.ConvSyncClient('http://localhost'), store=':memory:', "
        "record_only=True).close(); from langchain_convsync.cli import command_line; "
        "command_line(); print([m for m in sys.modules if 'workbench' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "[]\n", done.stderr
