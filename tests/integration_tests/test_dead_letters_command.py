"""From the number of dead letters in a store to the customers, and to all that failed alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from langchain_convsync._flow import run
from langchain_convsync.cli import command_line, main
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import Commit, EventStore, NewEvent, Operation, open_store
from langchain_convsync.turns import operators

REFUSED = "WAHA refused: check its api_key (status 401)"
BROKEN = "ValueError at bot.py:7 in pay"
CUSTOMERS = [f"+5199999999{number}" for number in range(4)]
cli = CliRunner()


def ask(url: str, command: str, *options: str, typed: str = "") -> Result:
    return cli.invoke(command_line(), [command, *options, "--store", url], input=typed)


def asked(url: str, command: str, *options: str) -> dict[str, Any]:
    answer = ask(url, command, *options, "--json")
    assert answer.exit_code == 0, answer.output
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def kill(store: EventStore, customer: str, account: str, reason: str) -> str:
    """A turn of which the event and the reply are dead letters; the conversation's key."""
    keys = run(store.keys())
    key = run(store.account(keys.account(account), keys.facts({"d": account})))
    event_key = keys.event(key, customer, "message", "1")
    conversation_key = keys.conversation(key, customer)
    new = NewEvent(
        event_key=event_key, conversation_key=conversation_key, payload='{"text": "secreto"}'
    )
    acquired = run(store.accept(new, token=customer)).acquired
    assert acquired is not None
    reply = Operation(id=f"{event_key}/0", body='{"text": "secreto"}')
    commit = Commit(event_keys=[event_key], outcomes={}, dead=True, reason=reason, replies=[reply])
    assert run(store.commit_turn(acquired.lease, commit)) == "done"
    sending = run(store.acquire("replies", f"sends {customer}"))
    assert sending is not None
    run(store.begin(sending.lease, reply.id, 0, attempt=1, need=6.0))
    run(store.set_dead(sending.lease, reply.id, reason=REFUSED))
    return conversation_key


@pytest.fixture
def conversations(durable_store_url: str) -> list[str]:
    """Three customers of one account and one of another, each with two dead letters."""
    store = open_store(durable_store_url)
    accounts = ("ventas", "ventas", "ventas", "cocina")
    found = [
        kill(store, customer, account, BROKEN)
        for customer, account in zip(CUSTOMERS, accounts, strict=True)
    ]
    store.close()
    return found


def test_each_is_told_by_its_key_with_kind_age_and_reason(
    durable_store_url: str, conversations: list[str]
) -> None:
    """The oldest first; no number and no word of anyone; the key leads on."""
    found = asked(durable_store_url, "dead-letters")
    told = ask(durable_store_url, "dead-letters").stdout

    letters = found["dead_letters"]
    assert found["total"] == 8
    assert {one["conversation"] for one in letters} == set(conversations)
    assert [one["since"] for one in letters] == sorted(one["since"] for one in letters)
    events = [one for one in letters if one["kind"] == "event"]
    replies = [one for one in letters if one["kind"] == "reply"]
    assert {one["reason"] for one in events} == {BROKEN}
    assert {(one["reason"], one["unclear"]) for one in replies} == {(REFUSED, True)}
    assert f": {BROKEN}\n" in told
    assert all(key in told for key in conversations)
    assert "it may have arrived" in told
    assert "secreto" not in told
    assert "9999999" not in told
    key = letters[0]["conversation"]
    assert len(json.loads(ask(durable_store_url, "show", key, "--json").stdout)["dead_letters"])


@pytest.mark.parametrize("named", ["cocina", "key"])
def test_an_accounts_own_are_told(
    durable_store_url: str, conversations: list[str], named: str
) -> None:
    """By its name, or by the key that ``status --accounts`` prints."""
    account = conversations[-1][:15] if named == "key" else named

    found = asked(durable_store_url, "dead-letters", "--account", account)

    assert found["total"] == 2
    assert {one["conversation"] for one in found["dead_letters"]} == {conversations[-1]}
    few = asked(durable_store_url, "dead-letters", "--account", "ventas", "--most", "1")
    assert (few["total"], len(few["dead_letters"])) == (6, 1)


@pytest.mark.usefixtures("conversations")
def test_how_many_more_there_are_is_told(durable_store_url: str) -> None:
    """And nothing of that where there are none."""
    few = ask(durable_store_url, "dead-letters", "--most", "3").stdout
    ask(durable_store_url, "discard", "--all", "--yes")
    none = ask(durable_store_url, "dead-letters")

    assert "These are 3 of 8" in few
    assert few.count(": WAHA refused") + few.count(": ValueError") == 3
    assert (none.exit_code, none.stdout) == (0, "no dead letters\n")


def test_all_that_failed_for_one_reason_are_given_back(
    durable_store_url: str, conversations: list[str]
) -> None:
    """No more and no less, each once, and each conversation is in the log."""
    done = ask(durable_store_url, "retry", "--all", "--reason", "waha REFUSED", "--json")
    again = asked(durable_store_url, "retry", "--all", "--reason", "waha REFUSED")

    assert (json.loads(done.stdout), again["retried"]) == ({"retried": 4}, 0)
    audited = done.stderr.splitlines()
    assert len(audited) == 4
    for key in conversations:
        assert sum(f"retry {key}: 1, by " in line for line in audited) == 1
    left = asked(durable_store_url, "dead-letters")
    assert {one["kind"] for one in left["dead_letters"]} == {"event"}
    assert asked(durable_store_url, "status")["replies"] == 4


@pytest.mark.usefixtures("conversations")
def test_all_of_them_are_decided_about_after_a_question_only(durable_store_url: str) -> None:
    """No is the default; with a reason only what is given up is asked about."""
    asks = [
        ask(durable_store_url, "retry", "--all", typed="\n"),
        ask(durable_store_url, "discard", "--all", typed="\n"),
        ask(durable_store_url, "discard", "--all", "--reason", "ValueError", typed="\n"),
    ]
    kept = asked(durable_store_url, "status")["dead_letters"]
    some = ask(durable_store_url, "discard", "--all", "--reason", "ValueError", typed="y\n")
    rest = asked(durable_store_url, "retry", "--all", "--yes")["retried"]

    assert [each.exit_code for each in asks] == [1, 1, 1]
    assert ["8 dead letters" in each.stderr for each in asks] == [True, True, False]
    assert "4 dead letters" in asks[-1].stderr
    assert (kept, rest) == (8, 4)
    assert "4 discarded" in some.stdout
    assert asked(durable_store_url, "status")["dead_letters"] == 0


def test_of_one_conversation_those_of_one_reason_are_decided(
    durable_store_url: str, conversations: list[str]
) -> None:
    """By its key."""
    assert asked(durable_store_url, "retry", conversations[0], "--reason", "WAHA")["retried"] == 1
    assert (
        asked(durable_store_url, "discard", conversations[0], "--reason", "x", "--yes")["discarded"]
        == 0
    )
    assert asked(durable_store_url, "status")["dead_letters"] == 7


def test_what_became_a_dead_letter_under_an_alias_is_decided_by_its_own_key(
    durable_store_url: str, conversations: list[str]
) -> None:
    """The customer's LID turned out to be their number; the list tells the old key."""
    store = open_store(durable_store_url)
    assert run(store.alias(conversations[0], conversations[1]))
    store.close()

    for who in (conversations[0], CUSTOMERS[0]):
        shown = asked(durable_store_url, "show", who, "--account", "ventas")
        assert (shown["conversation"], len(shown["dead_letters"])) == (conversations[1], 4)
    assert asked(durable_store_url, "retry", CUSTOMERS[0], "--account", "ventas")["retried"] == 4


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["retry"], "name a conversation, by PHONE or KEY, or pass --all"),
        (["discard"], "pass --all"),
        (["retry", CUSTOMERS[0], "--all"], "name no PHONE"),
        (["discard", "--all", "--account", "ventas"], "name no PHONE"),
        (["show", "05.abc"], "or a conversation's key"),
    ],
)
def test_a_command_that_means_nothing_is_told_in_one_line(
    durable_store_url: str,
    arguments: list[str],
    advice: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status 2, and nothing is done."""
    open_store(durable_store_url).keys().block()
    monkeypatch.setattr("sys.argv", ["convsync", *arguments, "--store", durable_store_url])

    with pytest.raises(SystemExit) as ended:
        main()

    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert advice in told


def test_what_was_done_is_in_the_log_where_the_store_went_away(
    durable_store_url: str, conversations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is decided by the same command again."""
    store = open_store(durable_store_url)
    given: list[str] = []
    requeue = type(store).requeue

    def breaking(self: Any, letter: Any, **named: Any) -> Any:
        if len(given) == 3:
            message = "away"
            raise StoreUnavailableError(message)
        given.append(letter.conversation_key)
        return requeue(self, letter, **named)

    monkeypatch.setattr(type(store), "requeue", breaking)
    audited: list[str] = []
    monkeypatch.setattr(operators.audit, "info", lambda form, *of: audited.append(form % of))
    with pytest.raises(StoreUnavailableError):
        run(operators.retry(store, None))
    store.close()

    assert sum(int(line.split(": ")[1].split(",")[0]) for line in audited) == 3
    assert {line.split(":")[0].removeprefix("retry ") for line in audited} == set(given)
    assert set(given) <= set(conversations)
