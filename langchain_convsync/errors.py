"""Every error this package raises.

::

    ConvSyncError
    ├── ConfigurationError              something is missing or malformed before any I/O
    │   ├── MissingExtraError           an optional dependency is not installed
    │   └── UnknownArgumentError        there is no argument of this name
    ├── InvalidPhoneNumberError         no phone number, nor another customer id
    ├── InvalidEventError               an inbound event that cannot be processed
    ├── EventInProgressError            another call is processing the event
    ├── UnknownOutcomeError             a tool's call was begun, and what came of it is unknown
    ├── LoopError                       the agent's run went on and on
    ├── BudgetError                     the runner's budget= refused to run the agent
    ├── UnknownConversationError        no surface was told which conversation it serves
    ├── NoInterruptError                no run of the agent waits for this answer
    ├── ConversationMismatchError       two sources, or an answer, name different conversations
    ├── ClosedError                     a client, store or runner was used after close
    ├── APIError                        the API server; ``ambiguous``: a write may have landed
    │   ├── APIConnectionError          no answer arrived
    │   │   └── APITimeoutError         no answer arrived in time
    │   ├── InvalidResponseError        an answer arrived that is not the documented one
    │   └── APIStatusError              the API server refused
    │       ├── BadRequestError         400, 422 and every other 4xx
    │       ├── AuthenticationError     401, or there is no key to send
    │       ├── PermissionDeniedError   403
    │       ├── NotFoundError           404
    │       │   └── ConversationNotFoundError
    │       ├── ConflictError           409
    │       ├── RateLimitError          429
    │       └── ServerError             5xx
    ├── AgentServerError                LangGraph's server did not run the agent
    ├── WAHAError                       WAHA did not send, or did not tell what it sent
    └── StoreError                      the event store
        ├── StoreUnavailableError       it did not answer
        │   ├── StoreChangedError       it was emptied, or begun anew, since it was opened
        │   └── StoreDamagedError       its file is damaged, and nothing is acknowledged
        ├── StoreFormatError            it was written by a newer version, or by no version
        └── FencedError                 the lease was lost to another process
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Literal


class ConvSyncError(Exception):
    """Base of every error this package raises."""

    def __init__(self, *args: object) -> None:  # one that `inspect.signature` can read
        super().__init__(*args)


class ConfigurationError(ConvSyncError, ValueError):
    """A setting is missing or malformed; the message names its argument and its variable."""


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed; the message is the pip command.

    Args:
        feature: What the caller asked for, e.g. ``"ConvSyncMiddleware"``.
        extra: The extra that brings it, e.g. ``"agents"``.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the [{extra}] extra: pip install 'langchain-convsync[{extra}]'"
        )
        self._given = feature, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), self._given


class UnknownArgumentError(ConfigurationError, TypeError):
    """There is no argument, or field, of this name; the message names the one that was meant."""


class InvalidPhoneNumberError(ConvSyncError, ValueError):
    """The text is not a customer id: a phone number, WhatsApp chat id, BSUID or a server's own."""


class InvalidEventError(ConvSyncError, ValueError):
    """The inbound event cannot be processed, now or later."""


class EventInProgressError(ConvSyncError):
    """Another call or process is at work on the event; its result is not known yet."""


class UnknownOutcomeError(ConvSyncError):
    """A tool's call was begun in an earlier run of the turn, and what came of it is unknown."""


class LoopError(ConvSyncError, RuntimeError):
    """The agent repeated a call of a tool, or took more steps than a turn may; it was ended."""


class BudgetError(ConvSyncError):
    """The function ``budget=`` of a runner refused to run the agent; the message is its reason."""


class UnknownConversationError(ConvSyncError, LookupError):
    """Nothing named the conversation to act on."""


class NoInterruptError(ConvSyncError, LookupError):
    """No run of the agent waits for this answer, or it has another one already."""


class ConversationMismatchError(ConvSyncError):
    """Two sources name different conversations, or an answer belongs to another one."""


class ClosedError(ConvSyncError, RuntimeError):
    """The client, store or runner is closed."""


class APIError(ConvSyncError):
    """The API server did not do what was asked.

    Attributes:
        status_code: HTTP status of the answer; None when none arrived.
        request_id: The server's id of the request, for its logs.
        retry_after: Seconds the server asked to wait, if it did.
        ambiguous: True when a write may have been applied although it failed.
        foreign: True when what answered is not the API, but a proxy's page, for example: its status
            says nothing of the request, which may well succeed later.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        ambiguous: bool = False,
        foreign: bool = False,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.request_id = request_id
        self.retry_after = retry_after
        self.ambiguous = ambiguous
        self.foreign = foreign

    def __str__(self) -> str:
        facts = [
            f"{name} {value}"
            for name, value in (("status", self.status_code), ("request", self.request_id))
            if value is not None
        ]
        message = super().__str__()
        return f"{message} ({', '.join(facts)})" if facts else message


class APIConnectionError(APIError):
    """The API server could not be reached, or the connection broke before an answer."""


class APITimeoutError(APIConnectionError):
    """The API server did not answer within the time limit."""


class InvalidResponseError(APIError):
    """The answer is not the documented one: HTML, truncated, oversized, or of another shape."""


class APIStatusError(APIError):
    """The API server answered with an error."""


class BadRequestError(APIStatusError):
    """The API server rejected the request itself."""


class AuthenticationError(APIStatusError):
    """The API server did not accept the API key, or the callable ``api_key`` gave none."""


class PermissionDeniedError(APIStatusError):
    """The API key may not act for this tenant."""


class NotFoundError(APIStatusError):
    """The API server has no such resource, or is mounted under another prefix."""


class ConversationNotFoundError(NotFoundError):
    """There is no active conversation for this phone number or session id."""


class ConflictError(APIStatusError):
    """The API server refused because of the resource's present state."""


class RateLimitError(APIStatusError):
    """The API server asked to slow down; ``retry_after`` says for how long, if it did."""


class ServerError(APIStatusError):
    """The API server failed."""


class AgentServerError(ConvSyncError):
    """LangGraph's server did not run the agent; the message says what to do about it."""


class WAHAError(ConvSyncError):
    """WAHA did not do what was asked.

    Attributes:
        status_code: HTTP status of the answer; None when none arrived.
        retry_after: Seconds WAHA asked to wait, if it did.
        ambiguous: True when a message may have been sent although the call failed.
        foreign: True when what answered is not WAHA, or not all of the answer arrived: its status
            says nothing of the request, which may well succeed later.
        kind: What a refusal is about: the ``chat``; the account, whose ``session`` does not work or
            which WhatsApp limits (``timelock``, ``capping``); the ``message`` itself; else
            ``unclear``, which may pass.
        words: WAHA's own, without a number, an address, an id or what was to be sent.
        engine: The engine that refused, e.g. ``"GOWS"``, where WAHA tells it.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        retry_after: float | None = None,
        ambiguous: bool = False,
        foreign: bool = False,
        kind: Literal["chat", "session", "timelock", "capping", "message", "unclear"] = "unclear",
        words: str = "",
        engine: str = "",
    ) -> None:
        facts = [f"status {status_code}"] if status_code is not None else []
        facts += [f"engine {engine}"] if engine else []
        said = f"{message}; it says: {words}" if words else message
        super().__init__(f"{said} ({', '.join(facts)})" if facts else said)
        self.status_code = status_code
        self.retry_after = retry_after
        self.ambiguous = ambiguous
        self.foreign = foreign
        self.kind = kind
        self.words = words
        self.engine = engine


class StoreError(ConvSyncError):
    """The event store did not do what was asked."""


class StoreUnavailableError(StoreError):
    """The event store did not answer."""


class StoreChangedError(StoreUnavailableError):
    """The event store was emptied or begun anew since it was opened; what it knew is gone.

    The same call again works in the store that is there now.
    """


class StoreDamagedError(StoreUnavailableError):
    """The event store's file is damaged; nothing is acknowledged until it is sound or another one.

    The message says how to recover what can be read of it.
    """


class StoreFormatError(StoreError):
    """The event store is of a newer format than this version reads, or tells no format at all.

    Attributes:
        is_newer: Whether a newer version wrote it, which would read it.
    """

    def __init__(self, message: str, *, is_newer: bool = False) -> None:
        super().__init__(message)
        self.is_newer = is_newer


class FencedError(StoreError):
    """Another process took the conversation over; this one must drop its work."""


def loggable(error: BaseException) -> str:
    """What a log and a dead letter may say of an error, in which nobody's words are repeated.

    It is the class, the argument whose function raised it if that is known, and the place:
    ``ValueError of prepare= at my_bot/agent.py:41 in pay``. One of ours says itself besides.
    """
    errors, told = [*_chain(error)], _first(error)
    kind = type(told).__name__
    notes = (note for each in errors for note in getattr(each, "__notes__", ()))
    argument = next((n.removeprefix(_NOTE) for n in notes if n.startswith(_NOTE)), None)
    of = "" if argument is None else f" of {argument}"
    if is_ours(told):
        text, place = str(told), _in_users_code(errors)
        led_to_it = "" if place is None or place in text else f"{of} at {place}"
        return f"{kind}{led_to_it}: {text}"
    cause = type(errors[-1]).__name__
    because = "" if cause == kind else f", caused by {cause},"
    return f"{kind}{of}{because} at {raised_at(error)}"


def cause_of(error: BaseException) -> str:
    """The same, told alike whenever it happens again: without the id of a single request."""
    if not isinstance(error, APIError):
        return loggable(error)
    message = str(error.args[0]) if error.args else type(error).__name__
    return message if error.status_code is None else f"{message} (status {error.status_code})"


def raised_at(error: BaseException) -> str:
    """Where an error comes from, without a word of it: ``my_bot/agent.py:41 in pay``.

    The innermost place in the user's code: of the first error in a group, and of what caused it.
    Where no code of the user's was running, the innermost one of the library that raised it.
    """
    if (place := _in_users_code([*_chain(error)])) is not None:
        return place
    places = (_innermost(_first(error), whose) for whose in (_LIBRARY, _PYTHON, _OURS))
    return next(filter(None, places), "an unknown place")


def is_users_code(frame: FrameType) -> bool:
    """Whether what runs in a frame is the user's: not ours, no library's and not Python's."""
    return _whose(frame) == _USERS


def is_ours(error: BaseException) -> bool:
    """Whether an error's text is ours, and no one else's: users may raise our classes, too."""
    told = _first(error)
    if type(told).__module__.partition(".")[0] != __name__.partition(".")[0]:
        return False
    frames = [frame for frame, _ in walk_tb(told.__traceback__)]
    return not frames or _whose(frames[-1]) == _OURS


@contextmanager
def raised_by(argument: str) -> Iterator[None]:
    """Note on what is raised inside which argument's function it was, for :func:`loggable`."""
    try:
        yield
    except Exception as error:
        if f"{_NOTE}{argument}" not in getattr(error, "__notes__", ()):
            error.add_note(f"{_NOTE}{argument}")
        raise


_NOTE = "raised by the function of "
#: Whose code runs at a place.
_USERS, _LIBRARY, _PYTHON, _OURS = range(4)
_OWN_FOLDER = str(Path(__file__).parent) + os.sep
_PYTHON_FOLDERS = tuple(
    {str(Path(sysconfig.get_path(name))) + os.sep for name in ("stdlib", "platstdlib")}
)
_INSTALLED = {"site-packages", "dist-packages"}
#: What Python, notebooks and ``python -c`` call code that stands in no file.
_TYPED = ("<stdin", "<string", "<console", "<ipython-input", "<python-input", "<command")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from; of a group the first one."""
    known: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in known:
        known.add(id(found))
        yield found
        found = found.exceptions[0] if isinstance(found, BaseExceptionGroup) else found.__cause__


def _first(error: BaseException) -> BaseException:
    """The first error of a group; any other itself."""
    return next(each for each in _chain(error) if not isinstance(each, BaseExceptionGroup))


def _in_users_code(errors: Sequence[BaseException]) -> str | None:
    """The place of the last one that came by code of the user's."""
    places = (_innermost(each, _USERS) for each in reversed(errors))
    return next(filter(None, places), None)


def _innermost(error: BaseException, whose: int) -> str | None:
    found = [
        (frame.f_code, line)
        for frame, line in walk_tb(error.__traceback__)
        if _whose(frame) == whose
    ]
    if not found:
        return None
    code, line = found[-1]
    return f"{_shortened(code.co_filename)}:{line} in {code.co_name}"


def _whose(frame: FrameType) -> int:
    name = frame.f_code.co_filename
    if name.startswith("<"):
        is_typed = name.startswith(_TYPED) and "__file__" not in frame.f_globals
        return _USERS if is_typed else _PYTHON
    return _whose_file(name)


@lru_cache(maxsize=4096)  # a trace of an agent's has a hundred places in twenty files
def _whose_file(name: str) -> int:
    if name.startswith(_OWN_FOLDER):
        return _OURS
    if not _INSTALLED.isdisjoint(Path(name).parts):
        return _LIBRARY
    return _PYTHON if name.startswith(_PYTHON_FOLDERS) else _USERS


def _shortened(name: str) -> str:
    """The file and its folder; not the folder of a person, which tells who that is."""
    path = Path(name)
    parts = path.parts[1:] if path.anchor else path.parts
    home = str(path.parent) == os.path.expanduser("~")  # noqa: PTH111 - `Path.home` may raise
    if home or path.parent.parent.name in {"home", "Users"}:
        return path.name
    return "/".join(parts[-2:])
