"""What an outcome means: the documented data, or one error of the tree.

Servers answer ``{"type": "1", "message": …, "data": …}``. An error has type ``"3"``; some servers
send it with HTTP 200. A server's message may repeat what it was sent, so none gets into an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from langchain_convsync._platform import now
from langchain_convsync.client._exchange import Answer, Failure, Outcome
from langchain_convsync.client._retry import retry_after
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConversationNotFoundError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from langchain_convsync.models import WireModel

M = TypeVar("M", bound=WireModel)

_NO_CONVERSATION = (
    "the API server has no active conversation for this customer or session: check that WAHA's "
    "webhook reaches it, that the conversation has not expired (24 hours by default), how the "
    "server stores phone numbers (ServerProfile(phone_format=…)), and the bot id"
)
_NO_PATH = (
    "the API server has nothing under this path: check base_url and where the endpoints are "
    "mounted (ServerProfile(prefix=…))"
)
_REDIRECT = (
    "the API server redirects, which is not followed because requests carry a key: check "
    "base_url (https? host?) and ServerProfile(prefix=…)"
)
_STATUS: dict[int, tuple[type[APIStatusError], str]] = {
    401: (
        AuthenticationError,
        "the API server did not accept the API key: check api_key or CONVSYNC_API_KEY",
    ),
    403: (
        PermissionDeniedError,
        "the API key may not act for this tenant: check which key api_key gives for it",
    ),
    404: (NotFoundError, _NO_PATH),
    409: (
        ConflictError,
        "the API server refused because of the conversation's present state: read it again first",
    ),
    429: (RateLimitError, "the API server asks to slow down"),
}
_NOT_ITS_ANSWER = (
    "something else answered in the API server's place: check what stands in front of it (a proxy, "
    "a maintenance page), base_url, and ServerProfile(prefix=…)"
)
_PROXY_ASKS = (
    "a proxy on the way asks for credentials: check HTTPS_PROXY and HTTP_PROXY, or the http_client"
)
_REJECTED = (
    "the API server rejected the request: check that it accepts this bot id, intent and content"
)
_FAILED = "the API server failed: its own log knows why"

#: A proxy says so, whatever stands behind it.
_PROXY_AUTHENTICATION = 407
#: About the request itself, whoever says so: it is not an outage, and too large it stays.
_TOO_LARGE = frozenset({413, 414, 431})
#: With these many a framework refuses what it was sent, in JSON without an envelope.
_MALFORMED = frozenset({400, 409, 422})

_REQUEST_ID_HEADERS = ("X-Request-Id", "Request-Id", "X-Correlation-Id")
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_NOT_FOUND = re.compile(r"no active conversation|conversation not found", re.IGNORECASE)


#: How our reference server, and the frameworks of others, say that no endpoint is there.
_NO_ENDPOINT = re.compile(
    r"no such (endpoint|route)|(endpoint|route) not found|^cannot (get|post|put) /", re.IGNORECASE
)


@dataclass(frozen=True)
class Question:
    """What was asked, as far as the meaning of an answer depends on it.

    Attributes:
        write: Whether the request changes something.
        about: What a 404 is about: a conversation, or a path alone.
    """

    write: bool
    about: Literal["conversation", "path"] = "conversation"


def data_of(outcome: Outcome, question: Question) -> Any:
    """The ``data`` of a successful answer.

    Raises:
        APIError: Any other outcome.
    """
    answer = _arrived(outcome, question)
    envelope = _envelope(answer)
    if envelope is None:
        why = "it is not a JSON object: check base_url and the prefix"
        raise _invalid(answer, question, why, foreign=True)
    if question.about == "conversation" and "type" not in envelope:
        raise _invalid(answer, question, "it has no type", foreign=True)
    kind = envelope.get("type", "1")  # the document does not show the answer to a health check
    if kind not in ("1", 1) or kind is True:
        raise _error_with_200(answer, question, envelope.get("message"))
    return envelope.get("data")


def parsed(outcome: Outcome, question: Question, model: type[M]) -> M:
    """The data of a successful answer as a model.

    Raises:
        APIError: Any other outcome, and data of another shape.
    """
    answer = _arrived(outcome, question)
    data = data_of(answer, question)
    if data is None and not question.write:
        raise ConversationNotFoundError(_NO_CONVERSATION, **_facts(answer))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # Field names and rules only: the error itself repeats the data.
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    flaws = ", ".join(
        f"{'.'.join(map(str, flaw['loc'])) or 'data'}: {flaw['type']}" for flaw in errors
    )
    raise _invalid(answer, question, f"its data is not as documented ({flaws})")


def _arrived(outcome: Outcome, question: Question) -> Answer:
    """The answer, if it is a whole one with a status of success."""
    if isinstance(outcome, Failure):
        raise _unanswered(outcome, question) from outcome.cause
    if not 200 <= outcome.status < 300:
        raise _refusal(outcome, question)
    if outcome.flaw is not None:
        raise _unanswered(outcome.flaw, question, outcome) from outcome.flaw.cause
    return outcome


def _unanswered(failed: Failure, question: Question, answer: Answer | None = None) -> APIError:
    if failed.kind in {"content", "size"} and answer is not None:
        return _invalid(answer, question, failed.reason, foreign=True)
    facts, ambiguous = _facts(answer), question.write and failed.sent
    if failed.kind == "timeout":
        advice = "check that the API server is up, or allow it a longer timeout"
        return APITimeoutError(failed.told(advice), ambiguous=ambiguous, **facts)
    advice = "check base_url and that the API server is up"
    return APIConnectionError(failed.told(advice), ambiguous=ambiguous, **facts)


def _refusal(answer: Answer, question: Question) -> APIStatusError:
    status, facts, said = answer.status, _facts(answer), _envelope(answer)
    if status >= 500:
        return ServerError(_FAILED, ambiguous=question.write, **facts)
    if status < 400:
        return APIStatusError(_REDIRECT, foreign=True, **facts)
    if status == 404 and question.about == "conversation" and _is_missing(said):
        return ConversationNotFoundError(_NO_CONVERSATION, **facts)
    error, message = _STATUS.get(status, (BadRequestError, _REJECTED))
    foreign = _is_foreign(status, said) or (status == 404 and is_no_endpoint(said or {}))
    if foreign and status not in {401, 404}:
        message = _PROXY_ASKS if status == _PROXY_AUTHENTICATION else _NOT_ITS_ANSWER
    return error(message, foreign=foreign, **facts)


def _is_missing(said: dict[str, Any] | None) -> bool:
    """Whether a 404 is about the conversation, not about the path."""
    if said is None or is_no_endpoint(said):
        return False
    return "type" in said or _names_it(said.get("message"))


def is_no_endpoint(said: dict[str, Any]) -> bool:
    """Whether a 404 is about the path, although it has the API's envelope."""
    message = said.get("message")
    return isinstance(message, str) and _NO_ENDPOINT.search(message) is not None


def _names_it(message: object) -> bool:
    return isinstance(message, str) and _NOT_FOUND.search(message) is not None


def _is_foreign(status: int, said: dict[str, Any] | None) -> bool:
    """Whether a refusal is none of the API's own, but that of something in front of it."""
    if status == _PROXY_AUTHENTICATION:
        return True
    if said is None:
        return status not in _TOO_LARGE
    return "type" not in said and status not in _TOO_LARGE | _MALFORMED


def _error_with_200(answer: Answer, question: Question, message: object) -> APIStatusError:
    if _names_it(message) and question.about == "conversation":
        return ConversationNotFoundError(_NO_CONVERSATION, **_facts(answer))
    return APIStatusError("the API server answered with an error", **_facts(answer))


def _invalid(
    answer: Answer, question: Question, why: str, *, foreign: bool = False
) -> InvalidResponseError:
    message = f"the API server's answer is not the documented one: {why}"
    return InvalidResponseError(
        message, ambiguous=question.write, foreign=foreign, **_facts(answer)
    )


class _Facts(TypedDict, total=False):
    status_code: int
    request_id: str | None
    retry_after: float | None


def _facts(answer: Answer | None) -> _Facts:
    if answer is None:
        return {}
    return {
        "status_code": answer.status,
        "request_id": _request_id(answer),
        "retry_after": retry_after(answer.headers.get("Retry-After"), now()),
    }


def _request_id(answer: Answer) -> str | None:
    sent = (answer.headers.get(name) for name in _REQUEST_ID_HEADERS)
    return next((value for value in sent if value and _REQUEST_ID.fullmatch(value)), None)


def _envelope(answer: Answer) -> dict[str, Any] | None:
    try:
        found = from_json(answer.body, allow_inf_nan=False)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
