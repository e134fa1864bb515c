"""What the API server does with writes: tried out in one test conversation."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from langchain_convsync._flow import Flow
from langchain_convsync.cli._doctor import judging as judge
from langchain_convsync.cli._doctor.customer import MARK, Found
from langchain_convsync.cli._doctor.findings import Finding
from langchain_convsync.cli._doctor.judging import WRITING
from langchain_convsync.client import Api
from langchain_convsync.errors import APIStatusError, ConvSyncError
from langchain_convsync.models import Conversation, PartialConversation, StateUpdate
from langchain_convsync.outbox import target_of
from langchain_convsync.settings import OBSERVED_INTENTS, CallTarget

#: The context keys that stay behind where a sync cannot take keys away.
KEYS = ("convsyncDoctor", "convsyncDoctorToo")
_KEYS_LEFT = f"the context keys {KEYS[0]} and {KEYS[1]}"
#: An intent that no server can have in its list.
STRANGE = "convsync-doctor"
#: Refusals that are not about what was sent.
_ELSEWHERE = frozenset({401, 403, 404, 409, 429})


@dataclass(kw_only=True)
class Trial:
    """One conversation that is written to.

    Attributes:
        api: The API server.
        found: The conversation, as it was before.
        bot_id: The bot that was asked for.
        replaces: Whether a sync was seen to replace the context.
        left: What was written and stays.
    """

    api: Api
    found: Found
    bot_id: str | None
    replaces: bool = False
    left: list[str] = field(default_factory=list)
    mark: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def before(self) -> Conversation:
        """The conversation as it was before."""
        return self.found.conversation

    @property
    def text(self) -> str:
        """The test message."""
        return f"{MARK} {self.mark}: a test message, please ignore it"

    @property
    def other_text(self) -> str:
        """The one that follows it."""
        return f"{MARK} {self.mark}: another test message, please ignore it"

    def read(self) -> Flow[Conversation]:
        """The conversation as it is now."""
        return self.api.get_conversation(self.found.spelling, self.bot_id, target=self._target())

    def sync(
        self,
        *,
        key: str | None = None,
        carried: Mapping[str, Any] | None = None,
        **update: Any,
    ) -> Flow[PartialConversation]:
        """A state update that never closes or reopens the conversation."""
        return self.api.sync_conversation(
            self.before.session_id,
            StateUpdate(is_active=self.before.is_active, **update),
            target=self._target(),
            idempotency_key=key,
            carried=carried,
        )

    def post(self, key: str, text: str | None = None) -> Flow[PartialConversation]:
        """A test message, as the bot's."""
        return self.api.add_message(
            self.before.session_id,
            "bot",
            text or self.text,
            target=self._target(),
            idempotency_key=key,
        )

    def key(self) -> str:
        """A fresh idempotency key."""
        return f"convsync-doctor-{self.mark}-{secrets.token_hex(8)}"

    def rest(self, read: Conversation) -> dict[str, Any]:
        """The context that has to go along with a sync, so that none of it is lost."""
        return dict(read.context) if self.replaces else {}

    def _target(self) -> CallTarget:
        return target_of(self.before)


Step: TypeAlias = Callable[[Trial], Flow[list[Finding]]]


def tried_out(trial: Trial) -> Flow[list[Finding]]:
    """Every finding about writing; one that fails does not keep the next from being tried."""
    findings: list[Finding] = []
    steps: dict[str, Step] = {
        "context": _context,
        "history": _history,
        "intents": _intents,
        "put back": _put_back,
    }
    for name, step in steps.items():
        try:
            findings += yield from step(trial)
        except ConvSyncError as error:
            advice = "look into the API server's log; what was not tried is not in the profile"
            findings.append(WRITING.failed(name, str(error), advice))
    sure = all(finding.status != "failed" for finding in findings)
    return [*findings, judge.leftovers(trial.left, sure=sure)]


def _context(trial: Trial) -> Flow[list[Finding]]:
    trial.left.append(_KEYS_LEFT)
    try:
        first = yield from trial.sync(context={KEYS[0]: trial.mark})
        yield from trial.sync(context={KEYS[1]: trial.mark})
        read = yield from trial.read()
    except ConvSyncError:
        yield from trial.sync(carried=trial.before.context)  # it may be gone without a trace
        raise
    kept = [read.context.get(key) == trial.mark for key in KEYS]
    trial.replaces = kept == [False, True]
    if trial.replaces:  # what the two syncs took away; some store messages in an empty context only
        yield from trial.sync(context={KEYS[0]: trial.mark}, carried=trial.before.context)
    return [
        judge.context(first_kept=kept[0], second_kept=kept[1]),
        judge.answers(first),
        judge.expiry(trial.before, read),
    ]


def _history(trial: Trial) -> Flow[list[Finding]]:
    before, key = (yield from trial.read()), trial.key()
    echo = yield from trial.post(key)
    refused: APIStatusError | None = None
    try:
        yield from trial.post(key)
    except APIStatusError as error:
        refused = error
    taken = True
    try:
        yield from trial.post(trial.key(), trial.other_text)
    except APIStatusError:  # as above, perhaps: it tells nothing of what is kept
        taken = False
    read = yield from trial.read()
    stored, kept = _count(trial, read), trial.other_text in {m.content for m in read.messages}
    if stored and taken and not kept:  # some servers keep the first message only
        by_sync = yield from _history_by_sync(trial, read, echoed=True)
        return [by_sync, (yield from _repeated_sync(trial))]
    if stored:
        trial.left.append(_messages(trial, stored + kept))
        repeated = judge.idempotency(times=stored, refused=refused)
        return [
            judge.history(stored=True, echoed=True),
            judge.cap(before.messages, read.messages, {trial.text, trial.other_text}),
            repeated,
        ]
    findings = [judge.cap(before.messages, echo.messages, {trial.text})]
    findings.insert(0, (yield from _history_by_sync(trial, read, echoed=_count(trial, echo) > 0)))
    findings.append((yield from _repeated_sync(trial)))
    return findings


def _history_by_sync(trial: Trial, read: Conversation, *, echoed: bool) -> Flow[Finding]:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = {"role": "bot", "content": trial.text, "timestamp": at}
    history = [*read.entries, entry]
    yield from trial.sync(carried={**trial.rest(read), "previousMessages": history})
    read = yield from trial.read()
    if (stored := _count(trial, read)) < len(
        [m for m in history if m.get("content") == trial.text]
    ):
        return judge.history(stored=False, echoed=echoed)
    trial.left.append(_messages(trial, stored))
    return judge.history(stored=False, echoed=echoed, by_sync=True)


def _repeated_sync(trial: Trial) -> Flow[Finding]:
    """The same key and body once more, after another value was written in between."""
    read = yield from trial.read()
    first, key = f"{trial.mark}-1", trial.key()
    for value, sent in ((first, key), (f"{trial.mark}-2", trial.key()), (first, key)):
        yield from trial.sync(context={KEYS[0]: value}, carried=trial.rest(read), key=sent)
    after = yield from trial.read()
    return judge.idempotency(times=2 if after.context.get(KEYS[0]) == first else 1, refused=None)


def _intents(trial: Trial) -> Flow[list[Finding]]:
    present = trial.before.current_intent
    status = yield from _refusal(trial, STRANGE)
    if status is None:
        findings = [judge.intents(None, status=None)]
    else:
        known: set[str] = set()
        for intent in sorted(OBSERVED_INTENTS | ({present} if present else set())):
            if (yield from _refusal(trial, intent)) is None:
                known.add(intent)
        findings = [judge.intents(sorted(known), status=status)]
    if present is None or (yield from _refusal(trial, present)) is not None:
        trial.left.append("the intent, which could not be put back")
        return findings
    trial.left.append("the previous intent")
    yield from trial.sync(intent=present)
    read = yield from trial.read()
    return [*findings, judge.repetition(read)]


def _put_back(trial: Trial) -> Flow[list[Finding]]:
    """Take our keys away, where a sync can."""
    if trial.replaces:
        read = yield from trial.read()
        yield from trial.sync(carried={k: v for k, v in read.context.items() if k not in KEYS})
        trial.left.remove(_KEYS_LEFT)
    return []


def _refusal(trial: Trial, intent: str) -> Flow[int | None]:
    """The status with which an intent is refused; None where it is accepted.

    Raises:
        APIError: The refusal is not about the intent.
    """
    try:
        yield from trial.sync(intent=intent)
    except APIStatusError as error:
        if error.status_code is None or error.status_code in _ELSEWHERE:
            raise
        return error.status_code
    return None


def _count(trial: Trial, read: Conversation | PartialConversation) -> int:
    return sum(message.content == trial.text for message in read.messages)


def _messages(trial: Trial, number: int) -> str:
    which = "1 message that begins" if number == 1 else f"{number} messages that begin"
    return f"{which} with “{MARK} {trial.mark}”"
