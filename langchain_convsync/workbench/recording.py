"""Talks become cases: those of the workbench from its timeline, a store's from what it keeps."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import SERVER_KEYS
from langchain_convsync.turns.operators import OperatorView
from langchain_convsync.turns.result import Snapshot
from langchain_convsync.turns.turn import QueuedMessage
from langchain_convsync.workbench.cases import Case, ExpectedState, Message, Step, ToolCall
from langchain_convsync.workbench.comparing import Outcome
from langchain_convsync.workbench.timeline import Fact
from langchain_convsync.workbench.whatsapp import CUSTOMERS

#: Whose number stands in a case wherever words name the customer's own.
STAND_IN = CUSTOMERS[0].phone_number


@dataclass(slots=True)
class Draft:
    """A step under way.

    Attributes:
        deed: What it begins with, as :class:`Step` has it.
        messages: What the customer does, where it is they who begin it.
        tools: What was called, by turn: one that is run anew begins with none.
        bot: What the customer read.
        state: The conversation as it was last.
        began: Whether a run of the agent has: what the customer says then is the next step.
    """

    deed: dict[str, Any] = field(default_factory=dict)
    messages: list[str | Message] = field(default_factory=list)
    tools: dict[str | None, list[ToolCall]] = field(default_factory=dict)
    bot: list[str] = field(default_factory=list)
    state: ExpectedState | None = None
    began: bool = False

    def take(self, fact: Fact) -> None:
        """Note what a fact tells of this step."""
        kind, turn = fact["kind"], fact.get("turn")
        if kind == "phase" and fact["phase"] == "agent":
            self.began, self.tools[turn] = True, []
        elif kind == "tool":
            given = {name: _value(each) for name, each in fact["args"].items()}
            called: ToolCall = {fact["name"]: given} if given else fact["name"]
            self.tools.setdefault(turn, []).append(called)
        elif kind == "said":
            self.bot.append(fact["text"])
        elif kind == "state" and fact["conversation"] is not None:
            self.state = state_of(fact["conversation"])

    @property
    def outcome(self) -> Outcome:
        """What it came to."""
        tools = tuple(called for each in self.tools.values() for called in each)
        return Outcome(tools, self.state, tuple(self.bot))

    @property
    def step(self) -> Step:
        """The same, as a case expects it."""
        deed, seen = self.deed or {"customer": self.messages}, self.outcome
        return Step(**deed, tools=[*seen.tools], state=seen.state, bot=[*seen.bot])


def talk(facts: Sequence[Fact], who: str) -> Case:
    """A case of what a customer of the workbench did, and of what came of it.

    Args:
        facts: The timeline's.
        who: The customer's phone number.

    Raises:
        LookupError: They have not written yet, or the beginning is forgotten.
    """
    if facts and facts[0]["n"] > 1:
        message = "the beginning of this talk is forgotten: start the workbench anew for a case"
        raise LookupError(message)
    drafts = _Drafts()
    for fact in facts:
        if fact.get("who") == who:
            drafts.take(fact)
    if not any(draft.messages for draft in drafts.all):
        message = "there is no case yet: the customer has not written"
        raise LookupError(message)
    return Case(steps=[draft.step for draft in drafts.all])


class _Drafts:
    """The steps of a talk under way: which of them a fact belongs to."""

    def __init__(self) -> None:
        self.all: list[Draft] = []
        self._of_turn: dict[str | None, Draft] = {}
        self._answering: Draft | None = None

    def take(self, fact: Fact) -> None:
        """Begin a step, or note what came of one."""
        if (deed := _deed(fact)) is not None:
            self.all.append(Draft(deed=deed))
        elif (message := _message(fact)) is not None:
            if not self.all or self.all[-1].deed or self.all[-1].began:
                self.all.append(Draft())
            self.all[-1].messages.append(message)
        elif self.all:
            self._meant(fact).take(fact)

    def _run(self, turn: str) -> Draft:
        """The step that a turn's run is of: what one turn did not answer is the next one's."""
        last = self.all[-1]
        if turn not in self._of_turn and last.began and len(last.messages) > 1:
            self.all.append(Draft(messages=last.messages[1:]))
            del last.messages[1:]
        return self._of_turn.setdefault(turn, self.all[-1])

    def _meant(self, fact: Fact) -> Draft:
        last, phase = self.all[-1], fact.get("phase")
        if phase == "agent" and fact["kind"] == "phase":
            return self._run(fact["turn"])
        draft = self._of_turn.get(fact.get("turn"), last)
        if phase in {"agent", "commit"}:  # it is over: what is said from now on is its answer
            self._answering = draft
        return self._answering or draft if fact["kind"] == "said" else draft


def kept(inspected: OperatorView, *, texts: bool) -> Case:
    """A case of a store's conversation: what its last turn left behind, and what waits since.

    Args:
        inspected: The conversation.
        texts: Whether words come along; the customer's own number is another one there.

    Raises:
        ConfigurationError: The store keeps nothing of what was said.
    """
    view = inspected.view
    found = None if view.snapshot is None else Snapshot(view.snapshot).conversation
    waiting = [QueuedMessage.read(each.payload)[0] for each in view.events]
    queued = [m for m in waiting if m is not None and m.by == "customer" and not m.revoked]
    said = [("user", message.words) for message in queued]
    if found is not None:
        said = [(each.role, each.content) for each in found.said] + said
    customer = found.user_id if found else next((m.phone_number or "" for m in queued), "")
    steps: list[dict[str, Any]] = []
    for role, words in said:
        if role == "user":
            if not steps or "bot" in steps[-1]:
                steps.append({"customer": []})
            shown = _unnamed(words, customer)
            steps[-1]["customer"].append(shown if texts else Message(characters=len(words)))
        elif steps:  # a history that was cut may begin with the bot's
            steps[-1].setdefault("bot", []).append(_unnamed(words, customer))
    if not steps:
        message = (
            "the store keeps no words of this conversation: those of the last turn go when its "
            "session ends, a day later at most"
        )
        raise ConfigurationError(message)
    answered = [step for step in steps if "bot" in step]
    if found is not None and answered:
        state = state_of(found.model_dump(mode="json", by_alias=True))
        answered[-1]["state"] = _unnamed(state.model_dump(), customer) if texts else _names(state)
    if not texts:
        steps = [{name: each for name, each in step.items() if name != "bot"} for step in steps]
    return Case(conversation=view.conversation_key, steps=[Step(**step) for step in steps])


def state_of(conversation: dict[str, Any]) -> ExpectedState:
    """What a conversation's document tells of its state."""
    context = {k: v for k, v in conversation["context"].items() if k not in SERVER_KEYS}
    intent, step = conversation["currentIntent"], conversation["currentStep"]
    return ExpectedState(intent=intent, step=step, context=context)


def _names(state: ExpectedState) -> ExpectedState:
    return state.model_copy(update={"context": sorted(state.context or ())})


def _deed(fact: Fact) -> dict[str, Any] | None:
    """What somebody else than the customer does."""
    kind = fact["kind"]
    if kind == "colleague":
        return {"colleague": fact["text"]}
    if kind == "fault" and fact["fault"] == "expire":
        return {"do": "expire"}
    done = {"paused": "pause", "resumed": "resume"}.get(kind)
    return None if done is None else {"do": done}


def _message(fact: Fact) -> str | Message | None:
    if fact["kind"] == "heard":
        quotes, image = fact["quotes"], "image" in fact
        if quotes is None and not image:
            return str(fact["text"])
        return Message(text=fact["text"], quotes=quotes, image=image)
    if fact["kind"] == "edited":
        return Message(edit=fact["text"])
    return Message(revoke=True) if fact["kind"] == "revoked" else None


def _value(shown: str) -> Any:
    """A tool's argument, as the timeline has written it."""
    try:
        return ast.literal_eval(shown)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return shown


def _unnamed(told: Any, customer: str) -> Any:
    """The same with another number in the place of the customer's own, however it is written."""
    digits = re.sub(r"\D", "", customer.partition("@")[0])
    if isinstance(told, dict):
        return {_unnamed(k, customer): _unnamed(v, customer) for k, v in told.items()}
    if isinstance(told, list):
        return [_unnamed(each, customer) for each in told]
    if not isinstance(told, str):
        return told
    if len(digits) < 7:  # an id of another kind
        return told.replace(customer, "CUSTOMER") if customer else told
    end, apart = digits[-8:], r"[\s().-]*"
    begin = rf"\+?(?:\d{apart}){{0,{len(digits) - len(end)}}}"  # also without its country's code
    return re.sub(rf"(?<!\d){begin}{apart.join(end)}(?!\d)", STAND_IN, told)
