"""``convsync chat`` in a pipe: a talk with a bot through the whole pipeline."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_convsync.workbench import Case

#: A bot as it runs in production: everything it names is far away, and would fail here.
BOT = """
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, TurnRunner

def answer(messages):
    said = messages[-1].content
    if "boom" in said:
        raise ValueError("the oven is off")
    print("thinking about", said, flush=True)
    return AIMessage(f"re: {said}")

def send(turn):
    raise AssertionError("a customer of production would have got this")

client = ConvSyncClient("https://api.example.com", api_key="secret")
runner = TurnRunner(
    RunnableLambda(answer),
    client=client,
    store="redis://redis.example.com/0",
    on_reply=send,
    max_errors=1,
    fallback_reply="One moment, please",
)
"""


def chat(folder: Path, *lines: str, bot: str = BOT, target: str = "bot:runner") -> str:
    """What a pipe gets; the command ends with status 0."""
    done = _chat(folder, *lines, bot=bot, target=target)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _chat(folder: Path, *lines: str, bot: str, target: str) -> subprocess.CompletedProcess[str]:
    (folder / "bot.py").write_text(bot, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "langchain_convsync.cli", "chat", target],
        cwd=folder,
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def answers(told: str) -> list[str]:
    """What the bot said."""
    return re.findall(r"^bot  (.*)$", told, re.MULTILINE)


def test_each_line_of_a_pipe_is_answered_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Deliveries twice, under a LID and all at once; each message is recorded once."""
    told = chat(tmp_path, "Hola", "/twice one", "/lid two", "/burst a | b | c", "/quote three")

    assert answers(told)[:3] == ["re: Hola", "re: one", "re: two"]
    assert {"re: a", "re: b", "re: c"} & {*answers(told)}  # in whatever order they came
    assert answers(told)[-1].startswith("re: ")
    assert "0 lost, 0 doubled" in told.splitlines()[-1]


def test_what_a_bot_of_production_names_is_not_asked_for(tmp_path: Path) -> None:
    """Its API server, its store and its own way of sending are replaced by the workbench's."""
    told = chat(tmp_path, "Hola")

    assert answers(told) == ["re: Hola"]
    assert "on_reply= is not called" in told
    assert "thinking about Hola" in told  # what it prints is seen


def test_an_agent_that_raises_is_shown_with_its_traceback(tmp_path: Path) -> None:
    """File, line and words; then what the customer got, and why it is a dead letter."""
    told = chat(tmp_path, "boom")

    assert re.search(r"bot\.py\", line \d+, in answer", told)
    assert "ValueError: the oven is off" in told
    assert answers(told) == ["One moment, please"]
    assert "a dead letter" in told


def test_a_process_that_is_killed_is_followed_by_another(tmp_path: Path) -> None:
    """The customer notices nothing."""
    told = chat(tmp_path, "one", "/kill", "two")

    assert answers(told) == ["re: one", "re: two"]
    assert len(set(re.findall(r"is at work, process (\d+)", told))) == 2
    assert "4 messages, 0 lost, 0 doubled" in told


def test_a_colleague_takes_over_and_gives_back(tmp_path: Path) -> None:
    """While a human has the conversation the bot is silent."""
    told = chat(tmp_path, "one", "/colleague I am here", "two", "/pause 0", "three")

    assert answers(told) == ["re: one", "re: three"]
    assert "taken over" in told
    assert "0 lost, 0 doubled" in told.splitlines()[-1]


def test_a_session_that_expires_is_followed_by_a_new_one(tmp_path: Path) -> None:
    """What was said before is counted still."""
    told = chat(tmp_path, "one", "/expire", "two", "/state")

    assert answers(told) == ["re: one", "re: two"]
    assert "4 messages, 0 lost, 0 doubled" in told


#: What cannot be done, and what is said then.
REFUSED = {
    "/dance": "there is no /dance: /help tells what there is",
    "/twice": "say what: this takes a text",
    "/edit words": "Lucía has not written yet",
    "/revoke": "Lucía has not written yet",
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one chat says to all of these lines: to start one takes seconds."""
    return chat(tmp_path_factory.mktemp("chat"), *REFUSED, "/help")


@pytest.mark.parametrize("line", REFUSED)
def test_a_line_that_cannot_be_done_says_why(refusals: str, line: str) -> None:
    """The talk goes on."""
    behind = refusals.partition(f"you  {line}\n")[2]
    said, _, then = behind.partition("you  ")

    assert REFUSED[line] in said
    assert "ends, as does Ctrl-D" in then


def test_a_bot_that_does_not_load_is_shown_and_ends_the_chat(tmp_path: Path) -> None:
    """Its own traceback, and a status that tells."""
    done = _chat(tmp_path, "Hola", bot="import nothing_like_this", target="bot:runner")

    assert done.returncode == 1
    assert "No module named 'nothing_like_this'" in done.stdout
    assert "bot.py" in done.stdout


def test_a_chat_needs_a_bot(tmp_path: Path) -> None:
    """Yours, or the demo's."""
    done = subprocess.run(
        [sys.executable, "-m", "langchain_convsync.cli", "chat"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "name your runner, e.g. my_bot:runner, or use --demo" in done.stderr


SPEAKER = """
from langchain_core.runnables import RunnableLambda
from langchain_convsync import Reply, TurnRunner

def answer(messages):
    picture = b"\\x89PNG\\r\\n\\x1a\\n" + bytes(40)
    return Reply(texts=["**One**", "[two](https://example.com/two)"], file=picture, caption="three")

runner = TurnRunner(RunnableLambda(answer))
"""


def test_what_is_said_in_bubbles_and_files_counts_as_it_was_recorded(tmp_path: Path) -> None:
    """However a phone shows it."""
    told = chat(tmp_path, "Hola", bot=SPEAKER)

    assert answers(told) == ["*One*", "two (https://example.com/two)", "three"]
    assert "4 messages, 0 lost, 0 doubled" in told


def test_a_talk_is_saved_as_a_case(tmp_path: Path) -> None:
    """With what was called, said and kept; one that cannot be saved says why."""
    told = chat(tmp_path, "/case talk.yaml", "Hola", "/case none/talk.yaml", "/case talk.yaml")
    [step] = Case.load(tmp_path / "talk.yaml").steps

    assert "the customer has not written" in told
    assert "none/talk.yaml: No such file or directory" in told
    assert "saved as talk.yaml" in told
    assert (step.texts, step.tools, step.bot) == (["Hola"], [], ["re: Hola"])
    assert step.state is not None
    assert step.state.step == "initial"
