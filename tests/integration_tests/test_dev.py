"""``convsync dev``: who may open the page, and what it is told."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.developing import BOT, Page, developing


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with developing(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page for all that leave it as it was: to start one takes seconds. Its Lucía is silent."""
    with developing(tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.fixture
def talking(shared: Page) -> Page:
    """The same one, on which another customer talks."""
    return replace(shared, customer=shared.all_customers[1])


def get(url: str, **headers: str) -> httpx.Response:
    """What a browser gets."""
    return httpx.get(url, headers=headers, trust_env=False)


def test_the_page_opens_with_its_token_under_this_machines_name_alone(shared: Page) -> None:
    """No token, another one, or a name that was made to lead here: nothing."""
    assert get(shared.url).status_code == 200
    assert get(shared.origin).status_code == 403
    assert get(f"{shared.origin}/?token=another").status_code == 403
    assert get(f"{shared.origin}/events").status_code == 403
    assert get(shared.url, Host="evil.example").status_code == 403
    assert get(shared.url, Host="127.0.0.1:1").status_code == 403


def test_what_another_page_asks_for_is_refused(shared: Page) -> None:
    """Even with the token: by its origin, by what the browser says, or by a form's type."""
    deed = {"do": "fault", "fault": "kill"}
    foreign = {"Origin": "http://evil.example"}
    for headers in (foreign, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        asked = httpx.post(shared.address("do"), json=deed, headers=headers, trust_env=False)
        assert asked.status_code == 403
    asked = httpx.post(shared.address("do"), data=deed, trust_env=False)
    assert asked.status_code == 403
    assert get(shared.address("events"), **foreign).status_code == 403


def test_the_page_loads_nothing_from_elsewhere(shared: Page) -> None:
    """Its policy allows its own script and style, and no address stands in it."""
    answer = get(shared.url)
    policy = answer.headers["Content-Security-Policy"]
    [nonce] = set(re.findall(r"'nonce-([\w-]+)'", policy))

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert set(re.findall(r"<(?:script|style)[^>]*>", answer.text)) == {
        f'<script nonce="{nonce}">',
        f'<style nonce="{nonce}">',
    }
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s'\"`]+", answer.text) == []
    assert not re.search(r"\son\w+=|\sstyle=|innerHTML", answer.text)
    assert get(shared.url).headers["Content-Security-Policy"] != policy


def test_a_turn_is_told_from_the_delivery_to_the_last_write(page: Page) -> None:
    """In order, with what the tool was given; and the state as the API server has it."""
    page.do("write", text="Hola", times=2)
    state = page.settled(2)
    facts = [fact for kind, fact in page_told(page) if kind == "fact"]
    kinds = [fact["kind"] for fact in facts]
    [tool] = [fact for fact in facts if fact["kind"] == "tool"]

    assert [each for each in dict.fromkeys(kinds) if each in ORDER] == ORDER
    assert (tool["name"], tool["args"]) == ("clock", {"zone": "'Lima'"})
    assert kinds.count("turn") == 1
    assert kinds.count("delivered") == 2
    history = state["conversation"]["context"]["previousMessages"]
    assert [message["content"] for message in history] == ["Hola", "re: Hola"]
    assert (state["lost"], state["doubled"]) == (0, 0)


ORDER = ["worker", "heard", "turn", "phase", "tool", "tool over", "said", "echo"]


def page_told(page: Page) -> list[tuple[str, dict[str, object]]]:
    """All that was told until the echo."""
    told: list[tuple[str, dict[str, object]]] = []
    for each in page.told():
        told.append(each)
        if each[1].get("kind") == "echo":
            return told
    raise AssertionError(told)


def test_who_comes_back_is_told_what_was_missed(page: Page) -> None:
    """A page that was closed, or lost its connection, goes on behind the last fact it had."""
    page.do("write", text="one")
    page.settled(2)
    last = page.until("echo")["n"]
    page.do("write", text="two")
    first = next(fact for kind, fact in page.told(last) if kind == "fact")

    assert first["n"] > last


def test_a_worker_that_is_killed_in_a_turn_loses_and_doubles_nothing(page: Page) -> None:
    """It dies while the agent is at it; another process ends the turn."""
    page.do("write", text="Hola")
    first = page.until("phase", phase="agent")
    page.do("fault", fault="kill")
    state = page.settled(2)
    last = page.until("phase over", phase="commit")

    assert page.until("worker", state="killed")["pid"] == first["pid"]
    assert last["pid"] != first["pid"]
    assert last["turn"] == first["turn"]
    assert (state["lost"], state["doubled"]) == (0, 0)


def test_a_worker_that_is_killed_as_it_starts_is_followed_by_another_all_the_same(
    page: Page,
) -> None:
    """Killed is killed, whatever it was at."""
    seen = page.until("worker", state="ready")["n"]
    for _ in range(2):
        page.do("fault", fault="kill")
        seen = page.until("worker", after=seen, state="starting")["n"]

    assert page.until("worker", after=seen, state="ready")


@pytest.mark.parametrize("fault", ["api fails", "waha refuses", "waha loses", "echo late"])
def test_a_fault_is_not_noticed_by_the_customer(talking: Page, fault: str) -> None:
    """One message, one answer."""
    before = talking.settled(0)["sent"]
    talking.do("fault", fault=fault)
    talking.do("write", text="Hola")
    state = talking.settled(before + 2)

    assert state["sent"] == before + 2
    assert (state["lost"], state["doubled"]) == (0, 0)


def test_servers_that_are_away_are_waited_for(page: Page) -> None:
    """The API server, and the store."""
    page.do("write", text="one")
    page.settled(2)
    page.do("fault", fault="store away")
    page.do("fault", fault="api away")
    page.do("write", text="two")
    page.until("fault", fault="store away", on=False)
    page.do("fault", fault="api back")
    state = page.settled(4)

    assert (state["sent"], state["lost"], state["doubled"]) == (4, 0, 0)


def test_an_agent_that_raises_ends_as_a_dead_letter_with_a_button(page: Page) -> None:
    """Its traceback is told, and the customer gets the fallback."""
    page.do("write", text="boom")
    failed = page.until("phase over", phase="agent")
    state = page.settled(2)

    assert "ValueError: the oven is off" in failed["trace"]
    assert len(state["dead"]) == 1
    assert page.do("discard").json() == {"done": 1}


def test_a_module_that_changes_is_loaded_anew(tmp_path: Path, page: Page) -> None:
    """The next message is answered by the new one; one that is broken waits to be mended."""
    seen = page.until("worker", state="ready")["n"]
    file, other = tmp_path / "bot.py", BOT.replace('WORD = "re"', 'WORD = "new"')
    for age, bot, state in ((10, "import nothing_like_this", "failed"), (20, other, "ready")):
        file.write_text(bot, encoding="utf-8")
        os.utime(file, (time.time() + age,) * 2)  # clocks of files are coarse
        seen = page.until("worker", after=seen, state=state)["n"]
    page.do("write", text="Hola")

    assert page.until("said")["text"] == "new: Hola"


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ({"do": "fault", "fault": "rain"}, "there is no fault 'rain'"),
        ({"do": "write", "who": "+1", "text": "Hola"}, "there is no such customer"),
        ({"do": "revoke"}, "Lucía has not written yet"),
    ],
)
def test_what_cannot_be_done_says_why(shared: Page, deed: dict[str, str], error: str) -> None:
    """As the page shows it."""
    answer = shared.do(**{"what": deed.pop("do"), **deed})

    assert answer.json() == {"refused": error}


def test_the_page_ends_with_everything_it_began(page: Page) -> None:
    """On SIGTERM, and Ctrl-C: the bot's process too."""
    pid = page.until("worker", state="ready")["pid"]
    page.process.terminate()
    page.process.communicate()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
