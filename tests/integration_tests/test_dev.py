"""``convsync dev``: who may open the page, and what it is told."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.developing import BOT, Page, developing

pytestmark = pytest.mark.slow  # the pages of a developer's tool, in processes of their own


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page for all that leave it as it was: to start one takes seconds. Its Lucía is silent."""
    with developing(tmp_path_factory.mktemp("shared")) as running:
        running.until("worker", state="ready")
        yield running


@pytest.fixture
def page(shared: Page) -> Page:
    """The same one, and a customer who has not written yet."""
    return shared.met()


@pytest.fixture
def bot_file(page: Page) -> Iterator[Path]:
    """The bot's module, which is in the end as it was, and answers again."""
    assert page.folder is not None
    file = page.folder / "bot.py"
    yield file
    now = page.met()
    change(file, BOT, age=30)
    now.until("worker", state="ready")


def change(file: Path, bot: str, *, age: float) -> None:
    """Write a module, later by these seconds than it is: clocks of files are coarse."""
    file.write_text(bot, encoding="utf-8")
    os.utime(file, (time.time() + age,) * 2)


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
    """In order of who tells it, with what the tool was given; and the state of the API server."""
    page.do("write", text="Hola", times=2)
    state = page.settled(2)
    facts = until_the_echo(page)
    kinds = [fact["kind"] for fact in facts]
    [tool] = [fact for fact in facts if fact["kind"] == "tool"]

    for order in ORDERS:
        assert [each for each in dict.fromkeys(kinds) if each in order] == order
    assert (tool["name"], tool["args"]) == ("clock", {"zone": "'Lima'"})
    assert kinds.count("turn") == 1
    assert kinds.count("delivered") == 2
    history = state["conversation"]["context"]["previousMessages"]
    assert [message["content"] for message in history] == ["Hola", "re: Hola"]
    assert (state["lost"], state["doubled"]) == (0, 0)


#: What the bot tells, and what WhatsApp does: two processes, of which either may be heard later.
ORDERS = [["worker", "turn", "phase", "tool", "tool over"], ["heard", "said", "echo"]]


def until_the_echo(page: Page) -> list[dict[str, Any]]:
    """All that is told from the page's beginning on, but of other customers."""
    facts: list[dict[str, Any]] = []
    for kind, fact in page.told(after=0):
        if kind == "fact" and fact.get("who", page.customer) == page.customer:
            facts.append(fact)
            if fact["kind"] == "echo":
                return facts
    raise AssertionError(facts)


def test_who_comes_back_is_told_what_was_missed(page: Page) -> None:
    """A page that was closed, or lost its connection, goes on behind the last fact it had."""
    page.do("write", text="one")
    page.settled(2)
    last = page.until("echo", who=page.customer)["n"]
    page.do("write", text="two")
    first = next(fact for kind, fact in page.told(last) if kind == "fact")

    assert first["n"] > last


def test_a_further_customer_is_known_to_every_page(page: Page) -> None:
    """To one that is open, and to one that is opened."""
    met = page.until("met", after=page.since - 1, who=page.customer)

    assert met["name"].startswith("Customer ")
    assert f'"number": "{page.customer}"' in get(page.url).text


def test_a_worker_that_is_killed_in_a_turn_loses_and_doubles_nothing(page: Page) -> None:
    """It dies while the agent is at it; another process ends the turn."""
    assert page.folder is not None
    page.do("write", text="hold")
    first = page.until("phase", who=page.customer, phase="agent")
    page.do("fault", fault="kill")
    killed = page.until("worker", state="killed")
    (page.folder / "go").touch()
    state = page.settled(2)
    last = page.until("phase over", who=page.customer, phase="commit")

    assert killed["pid"] == first["pid"]
    assert last["pid"] != first["pid"]
    assert last["turn"] == first["turn"]
    assert (state["lost"], state["doubled"]) == (0, 0)


def test_a_worker_that_is_killed_as_it_starts_is_followed_by_another_all_the_same(
    page: Page,
) -> None:
    """Killed is killed, whatever it was at."""
    seen = page.since
    for _ in range(2):
        page.do("fault", fault="kill")
        seen = page.until("worker", after=seen, state="starting")["n"]

    assert page.until("worker", after=seen, state="ready")


@pytest.mark.parametrize("fault", ["api fails", "waha refuses", "waha loses", "echo late"])
def test_a_fault_is_not_noticed_by_the_customer(page: Page, fault: str) -> None:
    """One message, one answer."""
    page.do("fault", fault=fault)
    page.do("write", text="Hola")
    state = page.settled(2)

    assert (state["sent"], state["lost"], state["doubled"]) == (2, 0, 0)


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
    failed = page.until("phase over", who=page.customer, phase="agent")
    state = page.settled(2)

    assert "ValueError: the oven is off" in failed["trace"]
    assert len(state["dead"]) == 1
    assert page.do("discard").json() == {"done": 1}


def test_a_module_that_changes_is_loaded_anew(page: Page, bot_file: Path) -> None:
    """The next message is answered by the new one; one that is broken waits to be mended."""
    seen, other = page.since, BOT.replace('WORD = "re"', 'WORD = "new"')
    for age, bot, state in ((10, "import nothing_like_this", "failed"), (20, other, "ready")):
        change(bot_file, bot, age=age)
        seen = page.until("worker", after=seen, state=state)["n"]
    page.do("write", text="Hola")

    assert page.until("said", who=page.customer)["text"] == "new: Hola"


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


def test_the_page_ends_with_everything_it_began(tmp_path: Path) -> None:
    """On SIGTERM, and Ctrl-C: the bot's process too."""
    with developing(tmp_path) as page:
        pid = page.until("worker", state="ready")["pid"]
        page.process.terminate()
        page.process.communicate()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
