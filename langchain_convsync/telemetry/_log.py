"""What is logged of conversations: each line begins with the key, under which an operator finds it.

``convsync hash PHONE`` tells a customer's key; no line holds a phone number, or anybody's words.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable

from langchain_convsync import _forks
from langchain_convsync._flow import monotonic
from langchain_convsync.errors import is_ours, loggable

#: Seconds for which a cause that is met again and again is not repeated.
SILENCE = 60.0
#: How many causes are remembered; the one that was met longest ago is forgotten first.
REMEMBERED = 10_000
#: Texts of errors quote customers, so a log holds them only where that was asked for.
WHERE_ITS_TEXT_IS = "; for its text pass TurnRunner(log_errors=True)"
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


class Causes:
    """What was logged a short while ago, and how often it was met since.

    Args:
        clock: Seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = _forks.lock()
        self._met: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def met(self, *cause: object) -> int | None:
        """How often a cause was met since it was last logged; None where it is not to be now."""
        now = self._clock()
        with self._lock:
            logged, since = self._met.pop(cause, (None, 0))
            if logged is not None and now - logged < SILENCE:
                self._met[cause] = logged, since + 1
                return None
            self._met[cause] = now, 0
            while len(self._met) > REMEMBERED:
                self._met.popitem(last=False)
        return since


_causes = Causes()


def log(
    logger: logging.Logger,
    level: int,
    conversation_key: str | None,
    message: str,
    *args: object,
    repeats: bool = False,
    with_text: bool | None = None,
) -> None:
    """Log a line about a conversation.

    Args:
        logger: Whose line it is.
        level: Its level.
        conversation_key: The conversation; None where none is known.
        message: The line, without words of anybody's.
        args: What it is made of. Errors among them are told as far as a log may.
        repeats: Whether it is said over and over: then once a minute for each cause, with how often
            it was met.
        with_text: Whether the traceback of an error among them follows, with its text; where it
            does not, the line says how to get it. None where there is no such choice.
    """
    if not logger.isEnabledFor(level):
        return
    error = next((each for each in args if isinstance(each, BaseException)), None)
    told = [loggable(each) if isinstance(each, BaseException) else each for each in args]
    if repeats:
        if (since := _causes.met(conversation_key, message, *_lasting(told, error))) is None:
            return
        if since:
            message = f"{message} (met %d times more since this was logged last)"
            told.append(since)
    if conversation_key is not None:
        message = f"Conversation %s: {message}"
        told.insert(0, conversation_key)
    else:
        message = message[:1].upper() + message[1:]
    shown = error if with_text else None
    if error is not None and with_text is False and not is_ours(error):
        message += WHERE_ITS_TEXT_IS
    logger.log(level, message, *told, exc_info=shown, stacklevel=2)


def _lasting(args: list[object], error: BaseException | None) -> list[object]:
    """What stays the same of a cause that is met again: numbers and ids of requests do not."""
    request = str(getattr(error, "request_id", None) or "")
    told = (str(each).replace(request, "") if request else str(each) for each in args)
    return [getattr(error, "status_code", None), *(_NUMBER.sub("", each) for each in told)]
