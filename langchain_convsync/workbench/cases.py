"""A talk as a file: what the customer does, and what a bot is expected to make of it.

What a case states is compared, and nothing else: a step without ``bot`` takes any words, a context
with two keys takes a third.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    ValidationError,
    model_serializer,
    model_validator,
)

from langchain_convsync._lines import count_of
from langchain_convsync.errors import ConfigurationError, MissingExtraError

#: How words are compared: not at all; each that the case has must be said; they are the same, save
#: for spaces and marks such as Markdown's.
Words: TypeAlias = Literal["none", "contains", "exact"]
#: The files of a folder that are cases.
SUFFIXES = (".yaml", ".yml")


def _several(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_serializer(mode="wrap")
    def _short(self, serialize: Any) -> dict[str, Any]:
        told = serialize(self).items()
        return {name: each for name, each in told if each is not None and each is not False}


class Message(_Part):
    """One message of the customer's, where it is more than words; or what they do about the last.

    Attributes:
        text: The words; of a photo its caption.
        quotes: What it answers by quoting: some words of the bot's.
        image: Whether it is a photo.
        edit: The last message says this from now on.
        revoke: The last message is taken back.
        characters: Its length, where a record has left the words out.
    """

    text: StrictStr | None = None
    quotes: StrictStr | None = None
    image: bool = False
    edit: StrictStr | None = None
    revoke: bool = False
    characters: int | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        deeds = self.text is not None or self.image, self.edit is not None, self.revoke
        if self.characters is None and sum(deeds) != 1:
            message = "is a text, an image, an edit or revoke: true"
            raise ValueError(message)
        return self


class ExpectedState(_Part):
    """The conversation after a step, as the API server has it.

    Attributes:
        intent: The current intent.
        step: The current step.
        context: Some of its keys, or only their names.
    """

    intent: StrictStr | None = None
    step: StrictStr | None = None
    context: dict[str, Any] | list[str] | None = None


def _one_tool(called: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(called, dict) and len(called) != 1:
        message = "is a tool's name, or its name with its arguments"
        raise ValueError(message)
    return called


#: A tool's name; or with the arguments that it must be given.
ToolCall: TypeAlias = Annotated[
    StrictStr | dict[str, dict[str, Any] | None], AfterValidator(_one_tool)
]
SomeText: TypeAlias = Annotated[list[StrictStr], BeforeValidator(_several)]


class Step(_Part):
    """What the customer, or a colleague, does; and what follows until nothing waits any more.

    Attributes:
        customer: The messages that they write in one moment.
        colleague: What a human writes from the business's own phone.
        do: ``pause`` gives the conversation to a human, ``resume`` gives it back to the bot,
            ``expire`` lets a day pass.
        tools: The tools that are called, in order.
        state: The conversation then.
        bot: What the customer reads.
    """

    customer: Annotated[list[StrictStr | Message], BeforeValidator(_several)] | None = None
    colleague: StrictStr | None = None
    do: Literal["pause", "resume", "expire"] | None = None
    tools: Annotated[list[ToolCall], BeforeValidator(_several)] | None = None
    state: ExpectedState | None = None
    bot: SomeText | None = None

    @model_validator(mode="after")
    def _is_one_deed(self) -> Self:
        if sum((bool(self.customer), self.colleague is not None, self.do is not None)) != 1:
            message = "begins with one of customer, colleague and do"
            raise ValueError(message)
        return self

    @property
    def texts(self) -> list[str]:
        """What the customer says in it."""
        told = [each if isinstance(each, str) else each.text for each in self.customer or ()]
        return [text for text in told if text is not None]

    @property
    def title(self) -> str:
        """What it is about, in a line."""
        if self.colleague is not None:
            return f"the colleague: {self.colleague}"
        if self.do is not None:
            return self.do
        return f"the customer: {' · '.join(self.texts) or '(no words)'}"


class Case(_Part):
    """A talk with what is expected of it.

    Attributes:
        convsync: The version of this format.
        conversation: The key of the conversation that it was recorded from.
        steps: What happens, in order.
        name: What it is called: its file's name.
    """

    convsync: Literal[1] = 1
    conversation: StrictStr | None = None
    steps: list[Step] = Field(min_length=1)
    name: str = Field("case", exclude=True)

    @classmethod
    def read(cls, text: str, *, name: str = "case") -> Self:
        """A case from YAML.

        Args:
            text: The YAML.
            name: What errors call it.

        Raises:
            ConfigurationError: It is no case: the error is one line, with the place.
        """
        yaml = _yaml()
        try:
            # As an API server has it: a day is text, and so is every key.
            found = json.loads(json.dumps(yaml.safe_load(text), default=str))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f", line {mark.line + 1}" if mark else ""
            message = f"{name}{where}: {error.problem or 'is not YAML'}"
            raise ConfigurationError(message) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            message = f"{name}: is not YAML"
            raise ConfigurationError(message) from error
        if not isinstance(found, dict) or "name" in found:
            message = f"{name}: is not a case: a case has convsync: 1 and steps"
            raise ConfigurationError(message)
        try:
            return cls.model_validate({**found, "name": name})
        except ValidationError as error:
            message = f"{name}, {_told(error)}"
            raise ConfigurationError(message) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A case from a file.

        Raises:
            ConfigurationError: There is no such file, or it is no case.
        """
        try:
            return cls.read(Path(path).read_text(encoding="utf-8"), name=Path(path).name)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            message = f"{path}: {reason}"
            raise ConfigurationError(message) from error

    @property
    def yaml(self) -> str:
        """The case as a file holds it."""
        told = self.model_dump(mode="json")
        return str(_yaml().safe_dump(told, sort_keys=False, allow_unicode=True, width=100))

    def customer(
        self, trajectory: Sequence[Any] = (), *, turn_counter: int | None = None, **_: Any
    ) -> dict[str, str]:
        """The customer's next words: a simulated user for openevals and LangSmith.

        As ``user=`` of ``run_multiturn_simulation``, with ``max_turns=len(case.words)``.

        Args:
            trajectory: What was said so far, as messages or dicts with a ``role``.
            turn_counter: How often the customer has spoken; counted in ``trajectory`` if absent.

        Raises:
            ConfigurationError: The case holds no further words.
        """
        said = turn_counter
        if said is None:
            said = sum(_role(each) in {"user", "human"} for each in trajectory)
        if said >= len(self.words):
            held = count_of(len(self.words), "message")
            message = f"{self.name} holds {held} of the customer's, not more"
            raise ConfigurationError(message)
        return {"role": "user", "content": self.words[said]}

    @property
    def words(self) -> list[str]:
        """What the customer says in it, message by message."""
        return [text for step in self.steps for text in step.texts]


def cases_in(paths: Iterable[str | Path]) -> list[Case]:
    """The cases in files, and in folders with all that is below.

    Raises:
        ConfigurationError: A file is no case, or a folder holds none.
    """
    found: list[Case] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(Case.load(path))
            continue
        files = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES)
        if not files:
            message = f"there is no case in {path}: convsync record makes one"
            raise ConfigurationError(message)
        for file in files:
            named = {"name": file.relative_to(path).as_posix()}
            found.append(Case.load(file).model_copy(update=named))
    return found


def _yaml() -> Any:
    """PyYAML: whoever holds no case waits for nothing.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtraError("A case", "cli") from error
    return yaml


def _role(message: Any) -> str:
    found = message.get("role") if isinstance(message, dict) else getattr(message, "type", "")
    return str(found)


#: What is wrong, in words, by pydantic's names.
_WRONG = {
    "string_type": "is not text: put quotes around it",
    "dict_type": "is not a mapping of names to values",
    "model_type": "is not a mapping of names to values",
    "list_type": "is not a list",
    "too_short": "is empty",
    "missing": "is missing",
}


def _told(error: ValidationError) -> str:
    """What is wrong, in a line; where one of several was meant, of that which comes nearest."""
    found = error.errors(include_url=False)
    first = max(found, key=lambda each: (not each["type"].endswith("_type"), len(each["loc"])))
    place, kind = _place(first["loc"]), first["type"]
    if kind == "extra_forbidden":
        return f"{' '.join(place[:-1]) or 'the case'}: there is no key {place[-1]!r}"
    if place == ["convsync"]:
        return "convsync: this version reads 1"
    told = _WRONG.get(kind, first["msg"].removeprefix("Value error, "))
    return f"{' '.join(place) or 'the case'}: {told}"


def _place(location: Sequence[str | int]) -> list[str]:
    """The way to it as its writer would say it: ``step 2``, and no name of a model."""
    place: list[str] = []
    for each in location:
        if isinstance(each, int):
            if place and place[-1] == "steps":
                place[-1] = "step"
            place.append(str(each + 1))
        elif each not in {"Message", "str"} and not {"[", "("} & {*each}:  # a choice of several
            place.append(each)
    return place
