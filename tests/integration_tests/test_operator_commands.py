"""The commands on one conversation: what they tell, change, ask and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from langchain_convsync._flow import run
from langchain_convsync.cli import command_line, main
from langchain_convsync.stores import (
    Commit,
    EventStore,
    NewEvent,
    Operation,
    QueueName,
    open_store,
)
from langchain_convsync.turns import operators

PHONE = "+51999999999"
SECRET = "quiero una pizza"
QUEUES: tuple[QueueName, ...] = ("replies", "inbox")
cli = CliRunner()


def ask(url: str, command: str, *options: str, phone: str = PHONE, typed: str = "") -> Result:
    arguments = [command, phone, "--store", url, *options]
    return cli.invoke(command_line(), arguments, input=typed)


def asked(url: str, command: str, *options: str) -> dict[str, Any]:
    """What a program reads."""
    answer = ask(url, command, *options, "--json")
    assert answer.exit_code == 0, answer.output
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def fill(url: str) -> str:
    """A dead event, a dead reply, a queued write and event; the conversation's key."""
    store = open_store(url)
    conversation_key: str = run(operators.conversation_key_of(store, PHONE, "default"))
    _turn(
        store,
        conversation_key,
        "1",
        dead=True,
        replies=[{"turn": "1", "chat_id": "51999999999@c.us"}],
    )
    acquired = run(store.acquire("replies", "worker"))
    assert acquired is not None
    run(store.set_dead(acquired.lease, acquired.operations[0].id, reason="WAHA refused it"))
    _turn(
        store,
        conversation_key,
        "2",
        operations=[{"kind": "append", "messages": [{"content": SECRET}]}],
    )
    event_key = run(store.keys()).event("default", "", "message", "3")
    run(
        store.accept(
            NewEvent(
                event_key=event_key,
                conversation_key=conversation_key,
                payload=json.dumps({"text": SECRET}),
            )
        )
    )
    store.close()
    return conversation_key


def _turn(
    store: EventStore, conversation_key: str, source: str, *, dead: bool = False, **queues: Any
) -> None:
    event_key = run(store.keys()).event("default", "", "message", source)
    new = NewEvent(
        event_key=event_key, conversation_key=conversation_key, payload=json.dumps({"text": SECRET})
    )
    acquired = run(store.accept(new, token=source)).acquired
    assert acquired is not None
    work: dict[str, Any] = {
        name: [Operation(id=f"{event_key}/{n}", body=json.dumps({"text": SECRET, **body}))]
        for name, bodies in queues.items()
        for n, body in enumerate(bodies)
    }
    commit = Commit(event_keys=[event_key], outcomes={}, dead=dead, **work)
    assert run(store.commit_turn(acquired.lease, commit)) == "done"


def test_show_tells_a_program_what_waits_and_why(durable_store_url: str) -> None:
    """Numbers, keys and reasons."""
    conversation_key = fill(durable_store_url)

    found = asked(durable_store_url, "show")

    assert (found["conversation"], found["account"], found["turns"]) == (
        conversation_key,
        conversation_key[:15],
        2,
    )
    assert (found["queued"]["depth"], found["queued"]["tries"]) == (1, 0)
    assert (found["writes"]["depth"], found["replies"]["depth"]) == (1, 0)
    assert sorted(one["kind"] for one in found["dead_letters"]) == ["event", "reply"]
    assert "WAHA refused it" in {one["reason"] for one in found["dead_letters"]}
    assert any("is one running?" in reason for reason in found["why"])
    assert found["paused_for"] is None


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_texts_are_shown_on_request_only(durable_store_url: str, options: tuple[str, ...]) -> None:
    """And the number never."""
    fill(durable_store_url)

    silent, open_ = (ask(durable_store_url, "show", *options, *more) for more in ((), ("--text",)))

    assert (silent.exit_code, open_.exit_code) == (0, 0)
    assert SECRET not in silent.output
    assert open_.stdout.count(SECRET) == 4
    assert "999999999" not in silent.output + open_.output


def test_people_read_why_a_conversation_waits(durable_store_url: str) -> None:
    """Whether a human has it, too."""
    fill(durable_store_url)
    ask(durable_store_url, "pause", "--for", "600")

    told = ask(durable_store_url, "show").stdout

    assert "why           events: a human has the conversation" in told
    assert "reply" in told
    assert "WAHA refused it" in told


def test_retry_gives_back_what_is_set_aside_once(durable_store_url: str) -> None:
    """And says so in the log."""
    conversation_key = fill(durable_store_url)

    first = ask(durable_store_url, "retry")

    assert (first.exit_code, first.stdout) == (0, "2 given back to the workers\n")
    assert f"langchain_convsync.audit: retry {conversation_key}: 2, by " in first.stderr
    assert asked(durable_store_url, "retry")["retried"] == 0
    found = asked(durable_store_url, "show")
    assert [found[name]["depth"] for name in ("queued", "writes", "replies")] == [2, 1, 1]
    assert found["dead_letters"] == []


def test_what_cannot_be_read_is_shown_and_decided_about_all_the_same(
    durable_store_url: str,
) -> None:
    """An operator is told which it is and why, and gives it back or up."""
    fill(durable_store_url)
    store = open_store(durable_store_url)
    for letter in run(store.dead_letters()):
        run(store.requeue(letter, token="again", body="[" * 5000))
    waiting = ask(durable_store_url, "show", "--text").exit_code
    replies, inbox = (run(store.acquire(queue, "worker")) for queue in QUEUES)
    assert replies is not None
    assert inbox is not None
    run(store.set_dead(replies.lease, replies.operations[0].id, reason="no reply"))
    event_keys = [each.event_key for each in inbox.events]
    commit = Commit(event_keys=event_keys, outcomes={}, dead=True, reason="no message")
    run(store.commit_turn(inbox.lease, commit))
    store.close()

    told = ask(durable_store_url, "show", "--text")
    retried = asked(durable_store_url, "retry")["retried"]

    assert (waiting, told.exit_code, retried) == (0, 0, 3)
    assert told.stdout.count(": no message\n") == 2
    assert told.stdout.count(": no reply\n") == 1


def test_discard_asks_before_it_gives_up(durable_store_url: str) -> None:
    """No is the default."""
    fill(durable_store_url)

    refused = ask(durable_store_url, "discard", typed="\n")
    left = len(asked(durable_store_url, "show")["dead_letters"])
    done = asked(durable_store_url, "discard", "--yes")

    assert (refused.exit_code, left, done["discarded"]) == (1, 2, 2)
    assert asked(durable_store_url, "show")["dead_letters"] == []


def test_a_human_gets_a_conversation_and_gives_it_back(durable_store_url: str) -> None:
    """Even one that nobody has written in yet, if that is what is meant."""
    open_store(durable_store_url).keys().block()

    assert asked(durable_store_url, "pause", "--for", "600", "--new")["paused_for"] == 600.0
    assert 590 < asked(durable_store_url, "show")["paused_for"] <= 600
    assert asked(durable_store_url, "resume")["paused_for"] is None
    assert ask(durable_store_url, "show").exit_code == 1


def test_forget_asks_and_then_erases(durable_store_url: str) -> None:
    """What the store keeps, and nothing else."""
    fill(durable_store_url)

    refused = ask(durable_store_url, "forget", typed="n\n")
    kept = ask(durable_store_url, "show").exit_code
    done = ask(durable_store_url, "forget", typed="y\n")

    assert (refused.exit_code, kept, done.exit_code) == (1, 0, 0)
    assert "what stays is in replicas and backups" in done.stdout
    gone = ask(durable_store_url, "show")
    assert gone.exit_code == 1
    assert "the store keeps nothing of this conversation" in gone.stderr


def test_hash_tells_the_keys_to_look_for_in_logs(durable_store_url: str) -> None:
    """The same for every spelling of the number, another one for another account."""
    conversation_key = fill(durable_store_url)

    assert asked(durable_store_url, "hash") == {
        "conversation": conversation_key,
        "account": conversation_key[:15],
    }
    assert conversation_key in ask(durable_store_url, "hash", phone="51 999-999-999").stdout
    other = ask(durable_store_url, "hash", "--account", "other")
    assert other.exit_code == 1  # the keys are told all the same: logs may hold them still
    assert other.stdout.startswith("conversation ")
    assert conversation_key not in other.stdout
    assert "the store keeps nothing of this conversation" in other.stderr


UNKNOWN: dict[str, list[str]] = {
    "show": [],
    "retry": [],
    "discard": ["--yes"],
    "answer": ["--approve"],
    "pause": ["--for", "600"],
    "resume": [],
    "forget": ["--yes"],
}


@pytest.mark.parametrize("command", UNKNOWN)
@pytest.mark.parametrize("who", [PHONE, "05." + "a" * 12 + "." + "b" * 24])
def test_a_conversation_that_is_unknown_is_told_in_one_line(
    durable_store_url: str, command: str, who: str
) -> None:
    """Status 1, and nothing is done; that nothing was there to forget is in the log."""
    open_store(durable_store_url).keys().block()

    told = ask(durable_store_url, command, *UNKNOWN[command], phone=who)

    *audited, line = told.stderr.splitlines()
    assert (told.exit_code, told.stdout) == (1, "")
    assert "check number or key, --account and --store" in line
    assert len(audited) == (command == "forget")
    assert all(": nothing was kept of it, by " in entry for entry in audited)
    assert ask(durable_store_url, "show", phone=who).exit_code == 1


@pytest.mark.parametrize("command", [*UNKNOWN, "hash"])
def test_a_key_stands_for_its_conversation(durable_store_url: str, command: str) -> None:
    """As it is printed, with what a copy brings along; what cannot be done is told as ever."""
    conversation_key = fill(durable_store_url)
    options = UNKNOWN.get(command, [])

    by_key = ask(durable_store_url, command, *options, "--json", phone=f" {conversation_key} ")

    if command == "answer":
        assert "no run of the agent waits" in by_key.stderr
    else:
        assert (by_key.exit_code, json.loads(by_key.stdout)["conversation"]) == (
            0,
            conversation_key,
        )


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["show", PHONE, "--store", "missing.db"], "there is no event store missing.db"),
        (["hash", PHONE], "CONVSYNC_STORE_URL"),
        (["forget", "carlos", "--store", "here.db"], "such as +51999999999"),
    ],
)
def test_what_the_user_has_to_mend_is_told_in_one_line(
    arguments: list[str],
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2, and what was typed is not repeated."""
    monkeypatch.chdir(tmp_path)
    here = open_store("here.db")
    here.keys().block()
    here.close()
    monkeypatch.setattr("sys.argv", ["convsync", *arguments])

    with pytest.raises(SystemExit) as ended:
        main()

    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert advice in told
    assert "carlos" not in told
