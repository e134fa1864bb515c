"""Every error this package raises.

::

    ConvSyncError
    ├── ConfigurationError              something is missing or malformed before any I/O
    │   └── MissingExtraError           an optional dependency is not installed
    ├── InvalidPhoneNumberError         neither E.164 nor a WhatsApp chat id
    ├── InvalidEventError               an inbound event that cannot be processed
    ├── EventInProgressError            another call is processing the event
    ├── UnknownOutcomeError             a tool's call was begun, and what came of it is unknown
    ├── LoopError                       the agent's run went on and on
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
        │   └── StoreChangedError       it was emptied, or begun anew, since it was opened
        ├── StoreFormatError            it was written by a newer version, or by no version
        └── FencedError                 the lease was lost to another process
"""

from __future__ import annotations

from pathlib import Path
from traceback import walk_tb


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


class InvalidPhoneNumberError(ConvSyncError, ValueError):
    """The text is neither an E.164 phone number nor a WhatsApp chat id."""


class InvalidEventError(ConvSyncError, ValueError):
    """The inbound event cannot be processed, now or later."""


class EventInProgressError(ConvSyncError):
    """Another call or process is at work on the event; its result is not known yet."""


class UnknownOutcomeError(ConvSyncError):
    """A tool's call was begun in an earlier run of the turn, and what came of it is unknown."""


class LoopError(ConvSyncError, RuntimeError):
    """The agent repeated a call of a tool, or took more steps than a turn may; it was ended."""


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
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        retry_after: float | None = None,
        ambiguous: bool = False,
        foreign: bool = False,
    ) -> None:
        super().__init__(message if status_code is None else f"{message} (status {status_code})")
        self.status_code = status_code
        self.retry_after = retry_after
        self.ambiguous = ambiguous
        self.foreign = foreign


class StoreError(ConvSyncError):
    """The event store did not do what was asked."""


class StoreUnavailableError(StoreError):
    """The event store did not answer."""


class StoreChangedError(StoreUnavailableError):
    """The event store was emptied or begun anew since it was opened; what it knew is gone.

    The same call again works in the store that is there now.
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
    """What a log may say of an error: ours hold no words of the customer's, and others may."""
    return str(error) if isinstance(error, ConvSyncError) else type(error).__name__


def raised_at(error: BaseException) -> str:
    """Where an error comes from, without a word of it: ``send.py:12 in send``.

    The innermost place outside of this package, since that is whose error it is.
    """
    ours = str(Path(__file__).parent)
    places = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    theirs = [place for place in places if not place[0].co_filename.startswith(ours)]
    for code, line in (theirs or places)[-1:]:
        return f"{Path(code.co_filename).name}:{line} in {code.co_name}"
    return "an unknown place"
