"""How a conversation and a turn look in a notebook: IPython's display protocol.

What is shown comes from outside and may be kept with the notebook: every text is escaped, cut to
size, and long numbers in it are masked, because they may be phone numbers. Only backgrounds are
tinted, half transparent, so it reads on dark and light pages, and without any style as well.
"""

from __future__ import annotations

import re
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Messages of a conversation, and characters of a text, that are shown at most.
MOST_MESSAGES, LONGEST = 20, 500

_PHONE_LIKE = re.compile(r"\+?\d(?:[\s().-]{0,2}\d){6,}")
#: Halves of surrogate pairs cannot be sent to a browser; controls would steer a terminal.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_GREY, _GREEN = "rgba(127, 127, 127, 0.15)", "rgba(37, 211, 102, 0.2)"
_BUBBLE = "padding: 0.3em 0.7em; border-radius: 0.7em; overflow-wrap: anywhere"
_LEFT, _RIGHT = ("0.4em 4em 0 0", _GREY), ("0.4em 0 0 4em", _GREEN)


@dataclass(frozen=True, slots=True)
class Summary:
    """What is shown: a title and facts on one line, then who said what.

    Args:
        title: What it is; the only text in which numbers stay, as a bot's id may look like one.
        facts: Values by name; those that are None or empty are left out.
        messages: (speaker, text); what a customer says stands left, everything else right. Only
            the last ones are shown.
    """

    title: str
    facts: Mapping[str, str | None]
    messages: Sequence[tuple[str, str]] = ()

    def html(self) -> str:
        """The summary for a notebook."""
        import html  # all of HTML's entities, heavy, and needed in notebooks only

        facts = [f"{name} <b>{html.escape(text)}</b>" for name, text in self._facts()]
        lines = [f"<div>{' · '.join([f'<b>{html.escape(_cut(self.title))}</b>', *facts])}</div>"]
        lines += [f"<div><i>{note}</i></div>" for note in self._left_out()]
        for speaker, text in self.messages[-MOST_MESSAGES:]:
            margin, background = _LEFT if speaker == "customer" else _RIGHT
            said = html.escape(_safe(text)).replace("\n", "<br>")
            lines.append(
                f'<div style="margin: {margin}; background: {background}; {_BUBBLE}">'
                f"<b>{html.escape(_safe(speaker))}</b><br><bdi>{said}</bdi></div>"
            )
        return f'<div style="max-width: 40em">{"".join(lines)}</div>'

    def text(self) -> str:
        """The summary for a terminal."""
        facts = [f"{name} {text}" for name, text in self._facts()]
        lines = [" · ".join([_cut(self.title), *facts])]
        lines += [f"  ({note})" for note in self._left_out()]
        for speaker, text in self.messages[-MOST_MESSAGES:]:
            said = _safe(text).replace("\n", "\n    ")
            lines.append(f"  {_safe(speaker)}: {said}")
        return "\n".join(lines)

    def _facts(self) -> list[tuple[str, str]]:
        return [(name, _safe(text)) for name, text in self.facts.items() if text]

    def _left_out(self) -> list[str]:
        earlier = len(self.messages) - MOST_MESSAGES
        return [f"{earlier} earlier messages"] if earlier > 0 else []


class Displayed:
    """Shown as a summary where IPython shows values; ``repr`` and ``str`` hold no words."""

    __slots__ = ()

    @abstractmethod
    def _summary(self) -> Summary: ...

    def show(self) -> None:
        """Write the summary to the terminal, words and all."""
        sys.stdout.write(f"{self._summary().text()}\n")

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _repr_mimebundle_(self, **_filters: object) -> dict[str, str]:
        summary = self._summary()
        return {"text/html": summary.html(), "text/plain": summary.text()}


def _safe(text: str) -> str:
    """A text as every reader of the notebook may see it."""
    return _cut(_PHONE_LIKE.sub("•••", text[: LONGEST * 4]))


def _cut(text: str) -> str:
    text = _UNPRINTABLE.sub("\ufffd", text[: LONGEST * 4])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
