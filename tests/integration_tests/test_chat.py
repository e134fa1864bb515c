"""``convsync chat`` in a pipe: a talk with a bot through the whole pipeline."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from langchain_convsync.workbench import Case

pytestmark = pytest.mark.slow  # a developer's tool, in a process of its own

#: A bot as it runs in production: everything it names is far away, and would fail here.
BOT = """
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, Reply, TurnRunner

def answer(messages):
    said = messages[-1].content
    if "boom" in said:
        raise ValueError("the oven is off")
    if "speak" in said:
        picture = b"\\x89PNG\\r\\n\\x1a\\n" + bytes(40)
        texts = ["**One**", "[two](https://example.com/two)"]
        return Reply(texts=texts, file=picture, caption="three")
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
#: What cannot be done, and what is said then.
REFUSED = {
    "/dance": "there is no /dance: /help tells what there is",
    "/twice": "say what: this takes a text",
    "/edit words": "Lucía has not written yet",
    "/revoke": "Lucía has not written yet",
    "/case none.yaml": "the customer has not written",
}
#: What is typed, one after the other, and how many messages of the customer's that is.
TYPED = {
    **dict.fromkeys((*REFUSED, "/help"), 0),
    "Hola": 1,
    "/case none/talk.yaml": 0,
    "/case talk.yaml": 0,
    **dict.fromkeys(("/twice one", "/lid two"), 1),
    "/burst a | b | c": 3,
    "/quote three": 1,
    "/kill": 0,
    "after the kill": 1,
    "/colleague I am here": 0,
    "to the colleague": 1,
    "/pause 0": 0,
    "to the bot": 1,
    "/expire": 0,
    "a day later": 1,
    "/state": 0,
    "speak": 1,
    "boom": 1,
}


@dataclass(frozen=True)
class Talk:
    """A talk that is over.

    Attributes:
        folder: Where it was.
        told: All that was printed.
    """

    folder: Path
    told: str

    def behind(self, line: str) -> str:
        """What was printed until the next line was typed."""
        found, _, behind = self.told.partition(f"you  {line}\n")
        assert found, line
        return behind.partition("you  ")[0]

    def answers(self, line: str) -> list[str]:
        """What the bot said to it."""
        return answers(self.behind(line))

    @property
    def said(self) -> int:
        """How many messages of both sides there were."""
        return sum(TYPED.values()) + len(answers(self.told))


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """One for all tests that say nothing else: to start one takes seconds. It ends well."""
    folder = tmp_path_factory.mktemp("chat")
    done = chat(folder, *TYPED)
    assert done.returncode == 0, done.stdout + done.stderr
    return Talk(folder, done.stdout)


def chat(folder: Path, *lines: str, bot: str = BOT) -> subprocess.CompletedProcess[str]:
    """What a pipe gets."""
    (folder / "bot.py").write_text(bot, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "langchain_convsync.cli", "chat", "bot:runner"],
        cwd=folder,
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def answers(told: str) -> list[str]:
    """What the bot said."""
    return re.findall(r"^bot  (.*)$", told, re.MULTILINE)


def test_each_line_of_a_pipe_is_answered_and_nothing_is_lost_or_doubled(talk: Talk) -> None:
    """Deliveries twice, under a LID and all at once; each message is recorded once."""
    for line in ("Hola", "/twice one", "/lid two"):
        assert talk.answers(line) == [f"re: {line.split()[-1]}"]
    at_once = {*talk.answers("/burst a | b | c")}  # in whatever order they came
    assert {"re: a", "re: b", "re: c"} & at_once
    assert talk.answers("/quote three")[-1].startswith("re: ")
    assert talk.told.endswith(f" {talk.said} messages, 0 lost, 0 doubled\n")


def test_what_a_bot_of_production_names_is_not_asked_for(talk: Talk) -> None:
    """Its API server, its store and its own way of sending are replaced by the workbench's."""
    assert talk.answers("Hola") == ["re: Hola"]
    assert "on_reply= is not called" in talk.told
    assert "thinking about Hola" in talk.told  # what it prints is seen


def test_an_agent_that_raises_is_shown_with_its_traceback(talk: Talk) -> None:
    """File, line and words; then what the customer got, and why it is a dead letter."""
    told = talk.behind("boom")

    assert re.search(r"bot\.py\", line \d+, in answer", told)
    assert "ValueError: the oven is off" in told
    assert answers(told) == ["One moment, please"]
    assert "a dead letter" in told


def test_a_process_that_is_killed_is_followed_by_another(talk: Talk) -> None:
    """The customer notices nothing."""
    assert talk.answers("after the kill") == ["re: after the kill"]
    assert len(set(re.findall(r"is at work, process (\d+)", talk.told))) == 2


def test_a_colleague_takes_over_and_gives_back(talk: Talk) -> None:
    """While a human has the conversation the bot is silent."""
    assert talk.answers("to the colleague") == []
    assert talk.answers("to the bot") == ["re: to the bot"]
    assert "taken over" in talk.told


def test_a_session_that_expires_is_followed_by_a_new_one(talk: Talk) -> None:
    """What was said before is counted still."""
    assert talk.answers("a day later") == ["re: a day later"]
    assert talk.told.endswith(f" {talk.said} messages, 0 lost, 0 doubled\n")


@pytest.mark.parametrize("line", REFUSED)
def test_a_line_that_cannot_be_done_says_why(talk: Talk, line: str) -> None:
    """The talk goes on."""
    assert REFUSED[line] in talk.behind(line)
    assert "ends, as does Ctrl-D" in talk.behind("/help")


def test_what_is_said_in_bubbles_and_files_counts_as_it_was_recorded(talk: Talk) -> None:
    """However a phone shows it."""
    assert talk.answers("speak") == ["*One*", "two (https://example.com/two)", "three"]
    assert talk.told.endswith(f" {talk.said} messages, 0 lost, 0 doubled\n")


def test_a_talk_is_saved_as_a_case(talk: Talk) -> None:
    """With what was called, said and kept; one that cannot be saved says why."""
    [step] = Case.load(talk.folder / "talk.yaml").steps

    assert "none/talk.yaml: No such file or directory" in talk.behind("/case none/talk.yaml")
    assert "saved as talk.yaml" in talk.behind("/case talk.yaml")
    assert (step.texts, step.tools, step.bot) == (["Hola"], [], ["re: Hola"])
    assert step.state is not None
    assert step.state.step == "initial"


def test_a_bot_that_does_not_load_is_shown_and_ends_the_chat(tmp_path: Path) -> None:
    """Its own traceback, and a status that tells."""
    done = chat(tmp_path, "Hola", bot="import nothing_like_this")

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
