"""A chat in a terminal, or in a pipe: type as the customer, and see what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_convsync._lines import count_of
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.workbench.timeline import Fact
from langchain_convsync.workbench.whatsapp import CUSTOMERS
from langchain_convsync.workbench.world import State, World

#: Seconds to wait for an answer in a pipe, where nobody types on.
PATIENCE = 60.0

HELP = """\
  what you type         is what the customer writes
  /twice TEXT           one message, delivered twice
  /burst A | B | C      several messages in one moment
  /lid TEXT             one message, told once more under the customer's other id
  /quote TEXT           answers the bot's last message by quoting it
  /image [CAPTION]      a photo
  /edit TEXT            changes the last message
  /revoke               takes the last message back
  /colleague TEXT       a human writes from the business's own phone
  /pause [SECONDS]      gives the conversation to a human; /pause 0 gives it back
  /kill                 kills the bot's process (kill -9); another one goes on
  /expire               lets the session at the API server expire
  /state                the conversation as the API server has it
  /case FILE            saves this talk as a case for convsync replay
  /quit                 ends, as does Ctrl-D"""


@dataclass(slots=True)
class Chat:
    """One customer's talk.

    Args:
        world: Where it happens.
        show: Prints one line: what kind of line it is, and its words.

    Attributes:
        quoted: What the bot said last.
    """

    world: World
    show: Callable[[str, str], Any]
    quoted: str = ""
    _customer: Any = field(default=CUSTOMERS[0])
    _known: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Show what happens from now on."""
        self.world.timeline.listen(self._happened, since=0)
        self.world.listen(self._is)

    def do(self, line: str) -> bool:
        """Do what a line says.

        Returns:
            Whether the talk goes on.
        """
        line = line.strip()
        word, _, rest = line.partition(" ")
        if not line:
            return True
        if word in {"/quit", "/exit"}:
            return False
        try:
            if not word.startswith("/"):
                self.world.write(self._customer, line)
            elif (deed := self._deeds().get(word)) is None:
                self.show("error", f"there is no {word}: /help tells what there is")
            else:
                deed(rest.strip())
        except (LookupError, ValueError, ConvSyncError) as error:
            self.show("error", str(error.args[0] if error.args else error))
        return True

    def settle(self, seconds: float = PATIENCE) -> bool:
        """Wait until nothing of the conversation waits any more; False if that takes too long."""
        return self.world.settle(self._customer, seconds) is not None

    def counted(self) -> str:
        """What was lost, and what was doubled, in a line."""
        state = self.world.state(self._customer)
        sent = count_of(state["sent"], "message")
        return f"{sent}, {state['lost']} lost, {state['doubled']} doubled"

    def _deeds(self) -> dict[str, Callable[[str], Any]]:
        world, who = self.world, self._customer
        return {
            "/twice": lambda text: world.write(who, _some(text), times=2),
            "/burst": lambda text: [world.write(who, _some(each)) for each in text.split("|")],
            "/lid": lambda text: world.write(who, _some(text), twin=True),
            "/quote": lambda text: world.write(who, _some(text), quotes=self.quoted or "…"),
            "/image": lambda text: world.write(who, text, image=True),
            "/edit": lambda text: world.edit(who, _some(text)),
            "/revoke": lambda _: world.revoke(who),
            "/colleague": lambda text: world.colleague(who, _some(text)),
            "/pause": lambda text: world.pause(who, float(text or 3600)),
            "/kill": lambda _: world.kill() or self.show("error", "no process is at work"),
            "/expire": lambda _: world.expire(who),
            "/state": lambda _: self._state(),
            "/case": self._save,
            "/help": lambda _: self.show("help", HELP),
        }

    def _save(self, file: str) -> None:
        told = self.world.case(self._customer)
        try:
            Path(_some(file)).write_text(told, encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}") from error
        self.show("note", f"saved as {file}")

    def _state(self) -> None:
        state = self.world.state(self._customer)
        kept = state["conversation"]
        if kept is None:
            self.show("state", "the API server knows no conversation yet")
            return
        self.show("state", f"intent {kept['currentIntent']}, step {kept['currentStep']}")
        context = {k: v for k, v in kept["context"].items() if k != "previousMessages"}
        for name, value in context.items():
            self.show("state", f"  {name} = {value}")
        for reason in state["reasons"]:
            self.show("state", f"waits: {reason}")

    def _is(self, state: State) -> None:
        """What changed in the conversation, in a line each."""
        if state["who"] != self._customer.phone_number:
            return
        kept = state["conversation"] or {}
        now = {
            "intent": kept.get("currentIntent"),
            "step": kept.get("currentStep"),
            **{k: v for k, v in kept.get("context", {}).items() if k not in _HISTORY},
        }
        changed = [f"{k} {v}" for k, v in now.items() if self._known.get(k) != v]
        if changed and (self._known or state["turns"]):
            self.show("state", ", ".join(changed))
        self._known = now
        for one in state["dead"][len(self._known.get("dead", ())) :]:
            self.show("error", f"a dead letter: {one['reason']}")
        self._known["dead"] = state["dead"]

    def _happened(self, fact: Fact) -> None:
        if fact.get("who", self._customer.phone_number) != self._customer.phone_number:
            return
        told = _LINES.get(fact["kind"])
        for kind, words in told(fact) if told else ():
            self.show(kind, words)
        if fact["kind"] == "said":
            self.quoted = fact["text"]


_HISTORY = {"previousMessages", "lastUserMessage"}


def _some(text: str) -> str:
    if not text.strip():
        message = "say what: this takes a text"
        raise ValueError(message)
    return text.strip()


def _of_sign(fact: Fact) -> Iterable[tuple[str, str]]:
    if fact["sign"] == "startTyping":
        yield "sign", "typing …"
    elif fact["sign"] == "sendSeen":
        yield "sign", "seen ✓✓"


def _of_worker(fact: Fact) -> Iterable[tuple[str, str]]:
    told = {
        "ready": f"a worker is at work, process {fact['pid']}",
        "killed": f"process {fact['pid']} is dead",
        "failed": "the bot does not start; it is tried again when a file changes",
    }.get(fact["state"])
    if told:
        yield "note", told


def _of_phase(fact: Fact) -> Iterable[tuple[str, str]]:
    if fact.get("trace"):
        yield "trace", fact["trace"].rstrip()


def _of_delivery(fact: Fact) -> Iterable[tuple[str, str]]:
    if fact["status"] in {"amended", "taken over", "busy"}:
        yield "note", fact["status"]


_LINES: dict[str, Callable[[Fact], Iterable[tuple[str, str]]]] = {
    "said": lambda fact: [("bot", fact["text"])],
    "sign": _of_sign,
    "worker": _of_worker,
    "phase over": _of_phase,
    "tool": lambda fact: [("step", f"{fact['name']}({_arguments(fact['args'])})")],
    "tool over": lambda fact: [("error", fact["error"])] if fact.get("error") else [],
    "delivered": _of_delivery,
    "refused": lambda fact: [("note", f"WAHA refused the reply ({fact['status']})")],
    "log": lambda fact: [("log", fact["text"])],
    "notice": lambda fact: [("note", fact["text"])],
}


def _arguments(given: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items())
