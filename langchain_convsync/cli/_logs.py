"""What a command logs, and how: one line a record, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import StrEnum
from typing import Annotated, Any, TextIO

import typer

from langchain_convsync._lines import one_line


class Level(StrEnum):
    """From which level on records are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Format(StrEnum):
    """How a record is written."""

    TEXT = "text"
    JSON = "json"


LogLevel = Annotated[Level, typer.Option(help="What is logged; debug may hold customers' words.")]
LogFormat = Annotated[
    Format, typer.Option(help="text, or json for one object a line, with fields of their own.")
]


def begin_logs(level: Level, form: Format) -> None:
    """Write every logger's records from now on.

    Only this package's own go down to DEBUG: other libraries' would hold keys and whole requests.
    """
    root, number = logging.getLogger(), logging.getLevelNamesMapping()[level.name]
    handler = _StandardError()
    handler.setFormatter(_Json() if form is Format.JSON else _Text())
    root.handlers = [each for each in root.handlers if not isinstance(each, _StandardError)]
    root.addHandler(handler)
    root.setLevel(max(number, logging.INFO))
    logging.getLogger("langchain_convsync").setLevel(number)


class _StandardError(logging.StreamHandler[TextIO]):
    """Standard error, whatever it is by now."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # it is an attribute there
        return sys.stderr


class _Text(logging.Formatter):
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.default_time_format = "%Y-%m-%dT%H:%M:%S"
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = one_line(record.message)
        return super().formatMessage(record)


#: What every record has: all else came as ``extra=``.
_USUAL = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class _Json(_Text):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _USUAL},
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)
