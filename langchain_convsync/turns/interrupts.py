"""What a run of the agent asks when it stops to wait, and what it can be answered with: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from langchain_convsync._lines import cut
from langchain_convsync.models import (
    ConversationMessage,
    InboundEvent,
    StateUpdate,
    StoredUpdate,
    as_json,
)
from langchain_convsync.stores.base import LONGEST_SNAPSHOT
from langchain_convsync.turns.bounds import LONGEST_TEXT
from langchain_convsync.turns.entries import InboxEntry
from langchain_convsync.turns.naming import known_as

#: Seconds after which a question to the customer is given up: as long as a session lives.
QUESTION_LIFE = LONGEST_SNAPSHOT
#: Seconds for what waits for ever: some thirty years.
NEVER = 1e9
#: What stands for a value that is no JSON.
_UNSERIALIZABLE = "unserializable"
#: What an operator may decide in one word.
Verdict: TypeAlias = Literal["approve", "reject", "respond"]


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Something that a run of the agent waits for.

    Attributes:
        id: Names it among those of its run, as LangGraph does.
        value: What the agent gave to ``interrupt()``, as JSON: a question to the customer, where it
            is a text; the requests of LangChain's ``HumanInTheLoopMiddleware``; or whatever else.
    """

    id: str
    value: Any = field(repr=False)

    @classmethod
    def of(cls, found: Any) -> Self:
        """LangGraph's own, or the mapping that its server makes of one."""
        told = found if isinstance(found, Mapping) else {"id": found.id, "value": found.value}
        value = told.get("value")
        try:
            value = as_json(value)
        except ValueError:  # never a text, which a customer would be asked
            value = {_UNSERIALIZABLE: type(value).__name__}
        return cls(str(told.get("id") or ""), value)

    def is_same_as(self, other: Interrupt) -> bool:
        """Whether it is the same one, read again from the agent's memory.

        A value that is no JSON, or a set, may come back from there as another one.
        """
        if self.id != other.id:
            return False
        no_json = any(_UNSERIALIZABLE in _mapping(each.value) for each in (self, other))
        return no_json or _unordered(self.value) == _unordered(other.value)

    @property
    def question(self) -> str | None:
        """What the customer is asked; None where it is for a human of the business."""
        return self.value.strip() or None if isinstance(self.value, str) else None

    @property
    def subject(self) -> str:
        """What it is about, without a word of what is asked: the tools that wait, for example."""
        names = [str(request.get("name", "?")) for request in self._requests]
        names += [str(request.get("action", "?")) for request in self._older_requests]
        return ", ".join(names) or ("a decision" if self.question is None else "a question")

    def decision(self, verdict: Verdict, text: str = "") -> Any:
        """The resume value by which an operator approves, rejects or answers it."""
        if self._requests:
            decided = {"type": verdict, "message": text}
            if verdict == "approve" or (verdict == "reject" and not text):
                decided = {"type": verdict}
            return {"decisions": [decided for _ in self._requests]}
        if self._older_requests:
            kind = {"approve": "accept", "reject": "response" if text else "ignore"}
            decided = {"type": kind.get(verdict, "response"), "args": text or None}  # type: ignore[dict-item]
            return [decided for _ in self._older_requests]
        return {"approve": True, "reject": text or False, "respond": text}[verdict]

    def refusal(self, said: Sequence[str]) -> Any:
        """The resume value where no human decided in time.

        Args:
            said: What the customer wrote meanwhile.

        Raises:
            ValueError: It takes no refusal.
        """
        words = "\n".join(said)
        reason = "No one decided in time, so this was not done."
        if words:
            reason += f" Meanwhile the customer wrote: {words}"
        if self._requests:
            return {"decisions": [self._refused(each, reason) for each in self._requests]}
        if self._older_requests:
            return [_ignored(each, words) for each in self._older]
        return words or False

    def _refused(self, request: Mapping[str, Any], reason: str) -> dict[str, Any]:
        configs = self.value.get("review_configs") or ()
        allowed = next(
            (
                config.get("allowed_decisions")
                for config in configs
                if config.get("action_name") == request.get("name")
            ),
            None,
        )
        for decision in ("reject", "respond"):
            if allowed is None or decision in allowed:
                return {"type": decision, "message": reason}
        message = "what waits can neither be rejected nor answered"
        raise ValueError(message)

    @property
    def _requests(self) -> list[Mapping[str, Any]]:
        """Those of ``HumanInTheLoopMiddleware``."""
        requests = self.value.get("action_requests") if isinstance(self.value, dict) else None
        return [each for each in requests or () if isinstance(each, Mapping)]

    @property
    def _older(self) -> list[Mapping[str, Any]]:
        """LangGraph's older ``HumanInterrupt``, of which there are lists."""
        found = self.value if isinstance(self.value, list) else []
        return [each for each in found if isinstance(each, dict) and "action_request" in each]

    @property
    def _older_requests(self) -> list[Mapping[str, Any]]:
        requests = [each["action_request"] for each in self._older]
        return [each for each in requests if isinstance(each, dict)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _unordered(value: Any) -> Any:
    """The value as it is whatever the order in its lists, which sets become."""
    if isinstance(value, dict):
        return {name: _unordered(each) for name, each in value.items()}
    if isinstance(value, list):
        return sorted((_unordered(each) for each in value), key=repr)
    return value


def _ignored(request: Mapping[str, Any], words: str) -> dict[str, Any]:
    config = request.get("config")
    if words and isinstance(config, dict) and config.get("allow_respond"):
        return {"type": "response", "args": words}
    return {"type": "ignore", "args": None}


def as_command(given: Any) -> Any:
    """What was given, if it is LangGraph's ``Command``."""
    kind = type(given)
    named = kind.__name__ == "Command" and kind.__module__.startswith("langgraph")
    return given if named else None


def resume_value(given: object) -> Any:
    """An answer as JSON; LangGraph's ``Command(resume=…)`` stands for what it resumes with.

    Raises:
        ValueError: It is no JSON.
    """
    command = as_command(given)
    return as_json(given if command is None else command.resume)


def interrupts_in(output: object) -> tuple[Interrupt, ...]:
    """What the run waits for; nothing where it came to its end."""
    found = output.get("__interrupt__") if isinstance(output, Mapping) else None
    return tuple(Interrupt.of(each) for each in found or ())


def question_of(interrupts: Sequence[Interrupt]) -> str | None:
    """What the customer is asked; None unless all of it is for the customer."""
    questions = [each.question for each in interrupts]
    asked = [each for each in questions if each is not None]
    if not asked or len(asked) < len(questions):
        return None
    return cut("\n\n".join(dict.fromkeys(asked)), LONGEST_TEXT)


class Answer(BaseModel):
    """What a waiting run goes on with.

    Attributes:
        by: Whose it is.
        value: The resume value; what ``prepare=`` made is asked for again.
        messages: How many of the events behind it the run answers as well.
        at: Store time at which it was decided.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    by: Literal["customer", "operator", "resume", "prepare", "timeout"]
    value: Any = Field(default=None, repr=False)
    messages: int = 0
    at: float = 0.0


class WaitingRun(InboxEntry):
    """A run that waits, as its entry at the head of the inbox tells it.

    Attributes:
        turn: The turn that was interrupted.
        customer: Whom it is about, and how to reach them; without a word of theirs.
        thread: The agent's own memory of it.
        interrupts: What it waits for.
        seconds: After which it goes on with a refusal; None: never by itself.
        noted: What the interrupted turns have synced: not to be synced again by the rest of it.
        notes: The names of the single updates of that, as ``TurnRecord`` gives them.
        added: Messages that they have recorded besides, likewise.
        answer: What it goes on with, once that is decided.
        is_back: Whether it was a dead letter, so the customer has the fallback already.
    """

    kind: Literal["interrupt"] = "interrupt"
    turn: str
    customer: InboundEvent = Field(repr=False)
    thread: str
    interrupts: tuple[Interrupt, ...]
    seconds: float | None
    noted: StoredUpdate = StateUpdate()
    notes: tuple[str, ...] = ()
    added: tuple[ConversationMessage, ...] = Field(default=(), repr=False)
    answer: Answer | None = None
    is_back: bool = False

    @property
    def question(self) -> str | None:
        """What the customer is asked; None where a human of the business decides."""
        return question_of(self.interrupts)

    @property
    def life(self) -> float:
        """Seconds after which it is due by itself."""
        if self.question is not None:
            return QUESTION_LIFE
        return NEVER if self.seconds is None else self.seconds

    def known_as(self, phone_number: str) -> Self:
        """The run of a customer whose phone number it does not tell."""
        customer = known_as(self.customer, phone_number)
        return self.model_copy(update={"customer": customer})

    def having_noted(
        self, update: StateUpdate, added: Sequence[ConversationMessage], before: WaitingRun | None
    ) -> Self:
        """The run, with what its turns have noted until now.

        Args:
            update: The state that this turn has noted.
            added: The messages that it has added.
            before: The run as it waited before this turn, if it did.
        """
        noted, said = (StateUpdate(), ()) if before is None else (before.noted, before.added)
        changes = {"noted": noted.updated_by(update), "added": (*said, *added)}
        return self.model_copy(update=changes)

    def answered(self, answer: Answer) -> Self:
        """The run, with what it goes on with."""
        return self.model_copy(update={"answer": answer})

    def given_back(self) -> Self:
        """The run that was a dead letter, and is tried once more."""
        return self.model_copy(update={"is_back": True})

    def refusals(self, said: Sequence[str]) -> Any:
        """The resume value where no human decided in time.

        Raises:
            ValueError: There is none.
        """
        return self._each({each.id: each.refusal(said) for each in self.interrupts})

    def decisions(self, verdict: Verdict, text: str = "") -> Any:
        """The resume value by which an operator decides about all of it."""
        return self._each({each.id: each.decision(verdict, text) for each in self.interrupts})

    def _each(self, values: Mapping[str, Any]) -> Any:
        return dict(values) if len(self.interrupts) > 1 else next(iter(values.values()), None)

    def resumption(self, pending: Sequence[Interrupt]) -> dict[str, Any]:
        """What LangGraph's ``Command(resume=…)`` takes: a value for each, by its id."""
        value = None if self.answer is None else self.answer.value
        return resumption(value, of=self.interrupts, pending=pending)

    def rest_of(self, update: StateUpdate) -> StateUpdate:
        """What is still to be synced: a step that runs again notes again what it has noted."""
        return without_noted(update, self.noted)

    def rest_of_added(self, added: Sequence[ConversationMessage]) -> list[ConversationMessage]:
        """What is still to be recorded."""
        noted = [(each.role, each.content) for each in self.added]
        rest = []
        for message in added:
            if (said := (message.role, message.content)) in noted:
                noted.remove(said)
            else:
                rest.append(message)
        return rest


def resumption(
    value: Any, *, of: Sequence[Interrupt], pending: Sequence[Interrupt]
) -> dict[str, Any]:
    """A value for each that waits, by its id: so None and an empty mapping are values like others.

    Args:
        value: The answer: one for all, or a mapping by the ids of what was asked.
        of: What was asked.
        pending: What of that still waits.
    """
    ids = {each.id for each in of}
    if isinstance(value, Mapping) and value and set(value) <= ids:
        left = {each.id for each in pending}
        return {name: answer for name, answer in value.items() if name in left}
    return {each.id: value for each in pending}


def without_noted(update: StateUpdate, noted: StateUpdate) -> StateUpdate:
    """An update without what says the same as another one."""
    changes: dict[str, Any] = {
        name: None
        for name in ("intent", "step", "is_active")
        if getattr(update, name) == getattr(noted, name)
    }
    for name in ("context", "metadata"):
        old = getattr(noted, name)
        new = getattr(update, name).items()
        changes[name] = {key: value for key, value in new if key not in old or old[key] != value}
    return update.model_copy(update=changes)
