"""``convsync answer`` decides what an agent waits for, and ``convsync show`` tells what that is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from langchain_convsync._flow import run
from langchain_convsync.cli import command_line, main
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import open_store
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises
from tests.promises import CUSTOMER
from tests.waiting import Cashier, asking

server = promises.server
pytestmark = pytest.mark.usefixtures("no_pause")
cli = CliRunner()


def ask(url: str, command: str, *options: str) -> Result:
    return cli.invoke(command_line(), [command, CUSTOMER, "--store", url, *options])


def says(server: ReferenceServer, url: str, agent: Any, number: int, text: str) -> Any:
    """The customer writes; what they get, from a process that ends with its turn."""
    store = open_store(url)
    runner = TurnRunner(agent, client=server.client(), store=store, interrupt_timeout=3600)
    event = InboundEvent(event_id=f"evt_{number}", phone_number=CUSTOMER, text=text)
    turn = runner.run(event)
    store.close()
    return turn


@pytest.mark.parametrize(
    ("options", "paid", "told"),
    [
        (["--approve"], [1], "paid 1"),
        (["--reject", "Too much"], [], "Too much"),
        (["--respond", "Paid in cash"], [], "Paid in cash"),
        (["--value", '{"decisions": [{"type": "approve"}]}'], [1], "paid 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
def test_an_operator_decides_and_the_next_process_goes_on(
    server: ReferenceServer,
    durable_store_url: str,
    options: list[str],
    paid: list[int],
    told: str,
) -> None:
    """It works on the store alone; the decision and what was written meanwhile are answered."""
    cashier = Cashier()
    agent = cashier.agent()
    says(server, durable_store_url, agent, 1, "Pago")

    answered = [ask(durable_store_url, "answer", *options) for _ in range(2)]
    turn = says(server, durable_store_url, agent, 2, "¿Ya?")

    assert [each.exit_code for each in answered] == [0, 0], answered[0].output
    assert "a worker goes on" in answered[0].stdout
    assert turn.reply == "Hecho\n\nSí"  # one call has both to send
    assert (cashier.paid, told in " ".join(cashier.told())) == (paid, True)


def test_what_waits_is_told_without_a_word_of_it(
    server: ReferenceServer, durable_store_url: str
) -> None:
    """Which tools, and for how long; what is asked only with ``--text``."""
    says(server, durable_store_url, Cashier().agent(), 1, "Pago")

    found = json.loads(ask(durable_store_url, "show", "--json").stdout)
    shown = ask(durable_store_url, "show").stdout
    with_texts = ask(durable_store_url, "show", "--text").stdout
    ask(durable_store_url, "answer", "--approve")
    afterwards = ask(durable_store_url, "show").stdout
    left = json.loads(
        cli.invoke(command_line(), ["status", "--store", durable_store_url, "--json"]).stdout
    )

    assert (found["asks"]["subjects"], found["asks"]["answered_by"]) == (["pay"], None)
    assert found["queued"]["depth"] == 0  # as status counts
    assert 3000 < found["asks"]["for"] <= 3600
    assert "agent waits   pay, for" in shown
    assert "amount" not in shown
    assert "amount" in with_texts
    assert any("waits for an answer: pay" in reason for reason in found["why"])
    assert "answered by operator" in afterwards
    assert (left["queued"], left["interrupts"]) == (1, 0)  # it is due work now


def test_a_question_to_the_customer_is_told_as_one(
    server: ReferenceServer, durable_store_url: str
) -> None:
    """And may be answered for them."""
    agent = asking("¿Seguro?")
    says(server, durable_store_url, agent, 1, "Q1")

    shown = ask(durable_store_url, "show").stdout
    ask(durable_store_url, "answer", "--respond", "sí")
    turn = says(server, durable_store_url, agent, 1, "Q1")

    assert "agent waits   a question" in shown
    assert "Seguro" not in shown
    assert turn.status == "duplicate"
    assert "Dijiste sí" not in str(turn.reply)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "pass one of"),
        (["--approve", "--reject", "no"], "pass one of"),
        (["--value", "{"], "--value is not JSON"),
    ],
)
def test_one_answer_is_given(
    durable_store_url: str,
    options: list[str],
    advice: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line, as everywhere."""
    open_store(durable_store_url).close()
    arguments = ["convsync", "answer", CUSTOMER, "--store", durable_store_url, *options]
    monkeypatch.setattr("sys.argv", arguments)

    with pytest.raises(SystemExit):
        main()

    assert advice in capsys.readouterr().err


def test_where_nothing_waits_the_command_says_so(durable_store_url: str) -> None:
    """With another exit code; and otherwise where it knows no such customer."""
    store = open_store(durable_store_url)
    run(store.keys())
    store.close()

    unknown = ask(durable_store_url, "answer", "--approve")
    ask(durable_store_url, "pause", "--for", "600", "--new")
    idle = ask(durable_store_url, "answer", "--approve")

    assert (unknown.exit_code, idle.exit_code) == (1, 1)
    assert "the store keeps nothing of this conversation" in unknown.stderr
    assert "no run of the agent waits" in idle.stderr
