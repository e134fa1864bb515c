"""What came along with a turn's messages: fetched from WAHA, and given to the agent.

A file is asked for where WAHA itself serves it, and nowhere else: of its URL only the path counts.
What becomes of it exists in the prompt of this turn alone; the history holds words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from langchain_convsync import _machine, telemetry
from langchain_convsync._flow import Flow, Io, is_async, monotonic, on_thread
from langchain_convsync._lines import cut
from langchain_convsync._platform import spawn
from langchain_convsync.client import Waha
from langchain_convsync.errors import ConfigurationError, raised_by
from langchain_convsync.surfaces.calls import TurnCalls
from langchain_convsync.surfaces.state import said_by
from langchain_convsync.turns.bounds import LONGEST_TEXT, shortened
from langchain_convsync.turns.files import (
    ADVICE,
    LARGEST_FILE,
    LARGEST_TURN,
    Shown,
    Unread,
    block_of,
    family_of,
    read_file,
    telling,
)
from langchain_convsync.turns.turn import Batch, QueuedMessage
from langchain_convsync.waha.files import file_path

logger = logging.getLogger(__name__)

#: What the agent is given of files.
MediaMode: TypeAlias = Literal["text", "blocks"]
#: Makes words of a voice message: its bytes and MIME type → text.
Transcribe: TypeAlias = Callable[[bytes, str], str | Awaitable[str]]

#: What is wrong with it in a blocking run.
IS_ASYNC = "transcribe= is async: use arun(), or pass a plain function"
#: Seconds that one file may take, and all of a turn's; and all of its transcriptions.
FILE_TIME, TURN_TIME, TRANSCRIPTION_TIME = 10.0, 20.0, 60.0


@dataclass(slots=True)
class _Room:
    """What is left for the files of one turn."""

    octets: int
    until: float
    listening: float


class Media:
    """Loads the files of a turn's events.

    Args:
        mode: Whether the agent is given the files.
        transcribe: Makes words of what can be heard.
        waha: Where they are; None takes it from the environment, where it is needed.
        log_errors: Whether the log holds the texts of errors.

    Attributes:
        is_needed: Whether anything is loaded at all.

    Raises:
        ConfigurationError: It is needed, and configured nowhere.
    """

    def __init__(
        self,
        mode: MediaMode,
        transcribe: Transcribe | None,
        waha: Waha | None,
        *,
        log_errors: bool = False,
    ) -> None:
        self._blocks = mode == "blocks"
        self._transcribe: Any = transcribe
        self._log_errors = log_errors
        self.is_needed = self._blocks or transcribe is not None
        self._own = _of_environment() if self.is_needed and waha is None else None
        self._waha: Any = waha or self._own

    @property
    def longest(self) -> float:
        """Seconds that it may add to a turn."""
        heard = TRANSCRIPTION_TIME if self._transcribe is not None else 0.0
        return TURN_TIME + heard if self.is_needed else 0.0

    def load(
        self, batch: Batch, calls: TurnCalls, conversation_key: str, *, only_words: bool
    ) -> Flow[tuple[Batch, dict[str, Shown]]]:
        """The turn's events with what was heard, and what a model reads of those with files.

        What cannot be loaded is told the model, counted and logged.

        Args:
            batch: The events.
            calls: Keeps what was heard until the turn is done.
            conversation_key: Their conversation, for the log.
            only_words: Whether the files are left out, since the agent's runs with them failed.

        Raises:
            FencedError: Another process took the turn over.
            StoreError: The store does not answer.
            WAHAError: The machine lacks what it takes to ask.
        """
        shown: dict[str, Shown] = {}
        events = dict(batch.events)
        room = _Room(LARGEST_TURN, monotonic() + TURN_TIME, TRANSCRIPTION_TIME)
        for event_key, event in batch.asked:
            family = family_of(event)
            is_heard = family == "audio" and self._transcribe is not None
            is_shown = family not in {"", "video"} and self._blocks and batch.waiting is None
            if not (is_heard or is_shown):
                continue
            outcome = doing = "transcribed" if is_heard else "loaded"
            try:
                if is_heard:
                    events[event_key] = yield from self._heard(event_key, event, calls, room)
                else:
                    shown[event_key] = yield from self._shown(event, room, only_words=only_words)
            except Unread as unread:
                outcome = unread.why
                shown[event_key] = Shown(telling(event, f"could not be {doing}: {outcome}"))
                self._report(conversation_key, family, doing, unread)
            telemetry.count("media", what=family, outcome=outcome)
        return replace(batch, events=tuple(events.items())), shown

    def _report(self, key: str, family: str, doing: str, unread: Unread) -> None:
        told, error = "a file (%s) could not be %s: %s%s", unread.__cause__
        given = [family, doing, unread.why, ADVICE.get(unread.why, "")]
        if error is None:
            telemetry.log(logger, logging.WARNING, key, told, *given, repeats=True)
        else:
            text, told = self._log_errors, f"{told}: %s"
            telemetry.log(logger, logging.WARNING, key, told, *given, error, with_text=text)

    def _shown(self, event: QueuedMessage, room: _Room, *, only_words: bool) -> Flow[Shown]:
        if only_words:
            raise Unread("the last answer with it failed")
        data, kind = yield from self._fetched(event, room)
        return Shown(event.content, (block_of(data, kind, event),))

    def _heard(
        self, event_key: str, event: QueuedMessage, calls: TurnCalls, room: _Room
    ) -> Flow[QueuedMessage]:
        """The event with the words that were heard, now or in an earlier run of the turn."""
        name = f"transcribe.{event_key}"
        text = (yield from calls.begin(name)).result
        if text is None:
            try:
                text = yield from self._transcribed(event, room)
            except Unread:
                yield from calls.end(name, None)  # a later run tries again
                raise
            yield from calls.end(name, text)
        if not text:
            raise Unread("no words were heard")
        words = "\n".join(filter(None, (event.text, text)))
        return shortened(event.model_copy(update={"text": words}))

    def _transcribed(self, event: QueuedMessage, room: _Room) -> Flow[str]:
        data, kind = yield from self._fetched(event, room)
        if not kind.startswith("audio/"):
            raise Unread("it is not what it says it is")
        began = monotonic()
        try:
            with raised_by("transcribe="):
                said = _words((yield from _within(room.listening, self._transcribe, data, kind)))
        except TimeoutError as error:
            raise Unread("it took too long") from error
        except Exception as error:  # whatever the user's function raises
            if _machine.lacking(error):  # the turn begins again later
                raise
            raise Unread("the transcription failed") from error
        finally:
            room.listening = max(0.0, room.listening - (monotonic() - began))
        return said

    def _fetched(self, event: QueuedMessage, room: _Room) -> Flow[tuple[bytes, str]]:
        """A file and what it is."""
        media = event.media
        if media is None or not media.url or media.error:
            raise Unread("it was not downloaded")
        if (path := file_path(media.url)) is None:
            raise Unread("it is kept elsewhere")
        left, most = min(FILE_TIME, room.until - monotonic()), min(LARGEST_FILE, room.octets)
        if left <= 0 or most <= 0:
            raise Unread("there are too many files")
        outcome = yield from self._waha.file(path, most=most, timeout=left)
        data, kind = read_file(outcome, most, media.mimetype)
        room.octets -= len(data)
        return data, kind

    def reopen(self) -> None:
        """Open connections of its own anew when they are needed, after :meth:`close` as well."""
        if self._own is not None:
            self._own.reopen()

    def close(self) -> None:
        """Close the connections of its own."""
        if self._own is not None:
            self._own.close()

    async def aclose(self) -> None:
        """Close the connections of its own, sync and async."""
        if self._own is not None:
            await self._own.aclose()


def _of_environment() -> Waha:
    try:
        return Waha()
    except ConfigurationError as error:
        message = (
            'media="blocks" and transcribe= load files from WAHA: pass reply=WAHAReply(url, '
            "api_key=…), whose WAHA is asked then, or set CONVSYNC_WAHA_BASE_URL and "
            f"CONVSYNC_WAHA_API_KEY ({error})"
        )
        raise ConfigurationError(message) from error


def _words(said: object) -> str:
    """What a transcription says."""
    if isinstance(said, str):
        return cut(said.strip(), LONGEST_TEXT)
    message = f"transcribe= returned an object of type {type(said).__name__}: return the text"
    raise ConfigurationError(message)


def _within(seconds: float, function: Callable[..., Any], *given: object) -> Io[Any]:
    """What a function of the user's says within so many seconds; a plain one on a thread.

    Raises:
        TimeoutError: It takes longer; a plain one is left behind.
    """

    def block() -> Any:
        ended: list[tuple[Any, BaseException | None]] = []
        context = copy_context()

        def work() -> None:
            try:
                said = context.run(said_by, function, *given, is_async=IS_ASYNC)
                ended.append((said, None))
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
                ended.append((None, error))

        spawn(work, "convsync-transcribe").join(seconds)
        if not ended:
            raise TimeoutError
        [(said, error)] = ended
        if error is not None:
            raise error
        return said

    async def wait() -> Any:
        async with asyncio.timeout(seconds):
            said = function(*given) if is_async(function) else await on_thread(function, *given)
            return await said if isinstance(said, Awaitable) else said

    return Io(block, wait)
