"""The page of ``convsync dev`` in a real browser: the system's Chromium."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.developing import Page, developing

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright (no browser with it)"
)

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: your system's package chromium"),
    pytest.mark.slow,  # a browser: what the page is told is in test_dev
]
#: Milliseconds after which what is waited for will not come.
PATIENCE = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playing:
        opened = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page for all that leave it as it was: to start one takes seconds."""
    with developing(tmp_path_factory.mktemp("shared"), "--demo") as running:
        running.until("worker", state="ready")
        yield running


@pytest.fixture
def served(shared: Page) -> Page:
    """The same one, and a customer who has not written yet."""
    return shared.met()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Page]:
    """One of its own."""
    with developing(tmp_path, "--demo") as running:
        yield running


class Tab:
    """One tab, with a customer's phone, and whatever went wrong in it."""

    def __init__(self, browser: Any, served: Page, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._said)
        self.page.goto(served.url)
        self.page.locator(f"[data-number='{served.customer}'].person").click()
        self.turn = f".turn[data-number='{served.customer}']"

    def _said(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.wrong.append(message.text)

    def write(self, text: str) -> None:
        """As the customer."""
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")

    def sees(self, selector: str, text: str = "", *, count: int | None = None) -> None:
        """Wait until something is shown, and so many of it."""
        found = self.page.locator(selector, has_text=text) if text else self.page.locator(selector)
        if count is None:
            found.first.wait_for()
        else:
            sync_api.expect(found).to_have_count(count, timeout=PATIENCE)

    def number(self, name: str) -> int:
        """One of the counter's."""
        return int(self.page.inner_text(f"#{name}"))


@pytest.fixture
def tab(browser: Any, served: Page) -> Iterator[Tab]:
    opened = Tab(browser, served, viewport={"width": 1440, "height": 900})
    yield opened
    opened.context.close()


def test_a_talk_is_seen_on_the_phone_in_the_timeline_and_in_the_state(
    tab: Tab, served: Page
) -> None:
    """Bubbles; models and tools that can be opened; what the API server has."""
    tab.write("What's on the menu?")
    tab.sees(".bubble:not(.mine)", "Margherita (S/ 25)")
    tab.write("two pepperoni, please")
    tab.sees(".bubble:not(.mine)", "S/ 58.00")
    tab.sees(f"{tab.turn} .chip.good", "committed", count=2)
    settled = served.settled(4)
    tab.sees(".queue.busy", count=0)
    tab.page.locator(f"{tab.turn} summary", has_text="rules → words").last.click()
    shown = tab.page.locator(f"{tab.turn} details[open] .more").inner_text()
    state = tab.page.inner_text("#state")

    assert "You answer for a pizzeria" in shown  # the prompt that the model saw
    assert "two pepperoni, please" in shown
    assert "menu → order" in state
    assert "orderTotal: 58" in state
    assert (settled["sent"], tab.number("lost"), tab.number("doubled")) == (4, 0, 0)
    assert tab.wrong == []


def test_a_worker_is_killed_by_a_key_and_the_customer_notices_nothing(
    tab: Tab, served: Page
) -> None:
    """While the model thinks; the card shows where it was cut, and who goes on."""
    tab.write("two pepperoni, please")
    tab.sees(f"{tab.turn} .bar.model.running")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("k")
    tab.sees(f"{tab.turn} .cut", "is dead")
    tab.sees(f"{tab.turn} .cut", "another worker goes on")
    tab.sees(".bubble:not(.mine)", "S/ 58.00", count=1)
    settled = served.settled(2)
    tab.sees(".queue.busy", count=0)

    assert (settled["sent"], tab.number("lost"), tab.number("doubled")) == (2, 0, 0)
    assert tab.wrong == []


def test_every_button_does_what_it_says_and_loses_nothing(tab: Tab, served: Page) -> None:
    """All ways to write and all faults, one after the other; then all is well."""
    tab.write("Hola")
    for button in tab.page.locator("#ways button, #faults button").all():
        button.click()
    tab.page.locator("#faults button", has_text="API away").click()  # which mends it
    give_back = tab.page.locator("#state button", has_text="Give it back")
    give_back.click()
    tab.write("I pay with card")
    served.settled(10)
    tab.sees(".queue.busy", count=0)

    assert (tab.number("lost"), tab.number("doubled")) == (0, 0)
    assert tab.wrong == []


def test_two_tabs_show_the_same(browser: Any, tab: Tab, served: Page) -> None:
    """Also one that is opened late."""
    tab.write("Hola")
    tab.sees(".bubble", count=2)
    other = Tab(browser, served)
    other.sees(".bubble", count=2)
    other.write("two pepperoni, please")
    for each in (tab, other):
        each.sees(".bubble", count=4)
        assert each.wrong == []
    other.context.close()


def test_a_tab_that_lost_its_connection_goes_on_where_it_was(tab: Tab, served: Page) -> None:
    """Nothing is missing, and nothing is shown twice."""
    tab.write("Hola")
    tab.sees(".bubble", count=2)
    tab.page.evaluate("dispatchEvent(new Event('pagehide'))")  # which closes the stream
    served.do("write", text="two pepperoni, please")
    served.settled(4)
    tab.page.evaluate("dispatchEvent(new Event('pageshow'))")
    tab.sees(".bubble", count=4)

    assert tab.wrong == []


def test_a_further_customer_begins_anew(tab: Tab) -> None:
    """By a key; nobody has written to their phone, and nothing is kept of them."""
    tab.write("Hola")
    tab.sees(".bubble", count=2)
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("n")
    tab.sees(".bubble", count=0)
    tab.sees("#state", "Nothing is kept of this customer yet.")
    tab.write("one veggie")
    tab.sees(".bubble:not(.mine)", "S/ 27.00", count=1)

    assert tab.wrong == []


def test_a_page_whose_server_has_ended_says_so(browser: Any, alone: Page) -> None:
    """It waits for no answer that cannot come."""
    tab = Tab(browser, alone)
    alone.process.terminate()
    tab.sees("#offline:not([hidden])", "start it again")
    tab.context.close()


def test_a_narrow_page_has_a_column_at_a_time(browser: Any, served: Page) -> None:
    """Readable at a phone's width: nothing stands beyond the edge."""
    tab = Tab(browser, served, viewport={"width": 360, "height": 740}, color_scheme="dark")
    tab.write("Hola")
    tab.sees(".bubble:not(.mine)", "Margherita")
    for name, column in (("Timeline", ".middle"), ("State", ".right"), ("Phone", ".left")):
        tab.page.get_by_role("tab", name=name).click()
        assert tab.page.locator(column).is_visible()
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.page.locator("html").get_attribute("data-theme") == "dark"
    assert tab.wrong == []
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_from_using_the_page(browser: Any, served: Page, scheme: str) -> None:
    """Names, roles, order and contrast, as axe checks them; with every kind of thing on it."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs pip install axe-playwright-python"
    )
    tab = Tab(browser, served, color_scheme=scheme, bypass_csp=True)
    tab.write("Hola")
    served.settled(2)
    served.do("fault", fault="kill")
    served.do("colleague", text="Hi, this is Ana")
    tab.sees(".human-has")
    tab.sees(".happened.fault")
    found = axe.Axe().run(tab.page)

    assert [
        (each["id"], node["html"], node["failureSummary"])
        for each in found.response["violations"]
        for node in each["nodes"]
    ] == []
    tab.context.close()


def test_what_is_shown_stays_within_bounds(browser: Any, shared: Page) -> None:
    """A page that is open for days does not grow: the oldest turns and bubbles go."""
    turns = 600
    told = "".join(f"event: fact\ndata: {json.dumps(fact)}\n\n" for fact in facts(turns))
    for number, kind in enumerate(("met", "parted"), 10**6):  # as a live store's conversations
        fact = {"n": number, "at": 1e9 + number, "kind": kind, "who": "one", "name": "one"}
        told += f"event: fact\ndata: {json.dumps(fact)}\n\n"
    tab = told_only(browser, shared, told)
    tab.sees(".turn", f"message {turns - 1}")
    tab.sees("[data-number='one']", count=0)

    assert tab.page.locator(".turn").count() <= 80
    assert tab.page.locator(".bubble").count() <= 300
    assert tab.page.evaluate("document.querySelectorAll('*').length") < 6000
    tab.context.close()


def test_the_counter_adds_up_what_all_customers_wrote_and_read(browser: Any, shared: Page) -> None:
    """And what each of them lost, and got twice."""
    told = ""
    for number, customer in enumerate(shared.all_customers, 1):
        counted = {"sent": 10 * number, "lost": number, "doubled": number - 1}
        shown: dict[str, Any] = {
            "conversation": None,
            "queues": {},
            "paused": None,
            "reasons": [],
            "dead": [],
        }
        told += f"event: state\ndata: {json.dumps({'who': customer, **shown, **counted})}\n\n"
    tab = told_only(browser, shared, told)
    tab.sees("#sent", "60")

    assert (tab.number("lost"), tab.number("doubled")) == (6, 3)
    tab.context.close()


def told_only(browser: Any, page: Page, told: str) -> Tab:
    """A tab that is told this, and nothing else."""
    tab = Tab(browser, page)
    sse = {"body": told, "content_type": "text/event-stream"}
    tab.page.route("**/events*", lambda route: route.fulfill(**sse))
    tab.page.reload()
    return tab


def facts(turns: int) -> Iterator[dict[str, Any]]:
    """What a long day tells: five facts a turn."""
    number = 0
    for turn in range(turns):
        for fact in (
            {"kind": "heard", "text": f"message {turn}", "id": f"h{turn}", "times": 1},
            {"kind": "turn", "turn": f"t{turn}", "pid": 1},
            {"kind": "phase", "phase": "commit", "turn": f"t{turn}"},
            {"kind": "phase over", "phase": "commit", "turn": f"t{turn}", "seconds": 0.1},
            {"kind": "said", "text": f"answer {turn}", "id": f"s{turn}", "status": 201},
        ):
            number += 1
            yield {"n": number, "at": 1e9 + number, "who": "+51999999999", **fact}


#: Clicks of the monkey, and what it chooses by.
CLICKS, SEED = 120, 8


def test_a_monkey_loses_and_doubles_nothing(browser: Any, alone: Page) -> None:
    """It clicks on whatever there is, in any order; then what is broken is mended."""
    alone.until("worker", state="ready")
    tab = Tab(browser, alone)
    chance = random.Random(SEED)
    buttons = tab.page.locator("#ways button, #faults button, #people button")
    kill = tab.page.locator("#faults button", has_text="Kill")
    for _ in range(CLICKS):
        button = chance.choice(buttons.all())
        tab.page.fill("#text", f"two pepperoni {chance.randrange(10**6)}")
        button.click()
        tab.page.wait_for_timeout(chance.choice((0, 50, 400, 1500)))
    kill.click()
    away = tab.page.locator("#faults button", has_text="API away")
    if away.get_attribute("aria-pressed") == "true":
        away.click()
    for number in alone.all_customers:
        alone.do("resume", who=number)
        # An expired conversation begins anew with a message that reaches the API server.
        alone.do("write", who=number, text="Still there?")
        state = alone.settled(1, who=number)
        assert (state["lost"], state["doubled"]) == (0, 0), state
    assert tab.wrong == []
