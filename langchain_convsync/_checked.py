"""Arguments are checked where they are given, by the annotations that everybody reads.

What is wrong raises one line: the argument, what it takes, what was given, and what to do. Texts
are never repeated, because one that stands in the wrong place may be a key or a phone number; only
a short choice is, and a number where a number is wanted.
"""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import math
import os
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial, reduce, wraps
from itertools import chain
from types import FunctionType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar, Union

from pydantic import BaseModel, ValidationInfo
from pydantic_core import PydanticCustomError

from langchain_convsync.errors import ConfigurationError, UnknownArgumentError

C = TypeVar("C", bound=Callable[..., Any])

#: Beyond this, a store's milliseconds since 1970 would leave the integers that it holds exactly.
LONGEST = 1e9


#: Characters of a wrong choice that an error repeats at most.
LONGEST_WORD = 20


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be, in an ``Annotated`` type.

    Args:
        unit: What it counts.
        least: The least that it may be.
        most: The most that it may be.
        above: Whether it must be more than ``least``.
    """

    unit: str
    least: float
    most: float = math.inf
    above: bool = False

    def __contains__(self, number: float) -> bool:
        return self.least <= number <= self.most and not (self.above and number == self.least)

    def __str__(self) -> str:
        least = f"more than {self.least:g}" if self.above else f"from {self.least:g}"
        return f"{self.unit}, {least}" + ("" if self.most == math.inf else f" to {self.most:g}")


@dataclass(frozen=True)
class Advice:
    """What an error says beside what the argument takes.

    Args:
        text: What else there is to do.
    """

    text: str


@dataclass(frozen=True)
class AsPasted(Advice):
    """A choice that a variable may hold as well: spaces around it mean nothing."""


#: What an argument is made into refuses it in better words.
ELSEWHERE = object()

Seconds: TypeAlias = Annotated[float, Range("a number of seconds", 0, LONGEST)]
PositiveSeconds: TypeAlias = Annotated[float, Range("a number of seconds", 0, LONGEST, above=True)]
Count: TypeAlias = Annotated[int, Range("a whole number", 1)]
CountOrZero: TypeAlias = Annotated[int, Range("a whole number", 0)]
Port: TypeAlias = Annotated[int, Range("a port number", 0, 65535)]


def checked(target: C) -> C:
    """The function, or the class, whose arguments are checked by their annotations.

    Of a class, those of its constructor and of its public methods are.
    """
    if not isinstance(target, type):
        of = target.__qualname__.split(".")
        title = of[-2] if of[-1] == "__init__" else of[-1]
        return typing.cast("C", _checked(target, title))
    for name, member in list(vars(target).items()):
        if name != "__init__" and name.startswith("_"):
            continue
        title = target.__name__ if name == "__init__" else f"{target.__name__}.{name}"
        if isinstance(member, FunctionType):
            setattr(target, name, _checked(member, title))
        elif isinstance(member, classmethod):
            setattr(target, name, classmethod(_checked(member.__func__, title)))
    return target


def _checked(function: Callable[..., Any], title: str) -> Callable[..., Any]:
    arguments = _Arguments(function, title)
    if not arguments.names or arguments.names == ["self"]:
        return function
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            arguments.check(args, kwargs)
            return await function(*args, **kwargs)

        return awaited

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        arguments.check(args, kwargs)
        return function(*args, **kwargs)

    return called


class _Arguments:
    """The arguments that a function takes."""

    def __init__(self, function: Callable[..., Any], title: str) -> None:
        parameters = inspect.signature(function).parameters.values()
        packed = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        self.names = [each.name for each in parameters if each.kind not in packed]
        self._is_open = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self._function, self._title = function, title

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """By name; read at the first call, when everything is imported."""
        annotations = dict(inspect.unwrap(self._function).__annotations__)
        annotations.pop("return", None)  # it may be of an extra that is not installed
        hints = typing.get_type_hints(
            SimpleNamespace(__annotations__=annotations),
            getattr(inspect.unwrap(self._function), "__globals__", {}),
            include_extras=True,
        )
        return {name: kind_of(hints[name]) for name in self.names if name in hints}

    def check(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise ConfigurationError unless every argument is known, and of its kind."""
        for name, value in chain(zip(self.names, args, strict=False), kwargs.items()):
            kind = self.kinds.get(name)
            if kind is not None and not kind.fits(value):
                raise ConfigurationError(refusal(name, kind, value))
            if kind is None and name not in self.names and not self._is_open:
                raise UnknownArgumentError(unknown(self._title, "argument", name, self.names))


class Kind(NamedTuple):
    """What an argument takes.

    Attributes:
        fits: Whether a value is of the kind.
        words: How an error names the kind.
        makes: The classes of which it takes objects.
        is_choice: Whether it is one of a few words, which may be repeated.
    """

    fits: Callable[[Any], bool]
    words: str
    makes: tuple[str, ...] = ()
    is_choice: bool = False


def refusal(name: str, kind: Kind, value: object) -> str:
    """Why a value is refused, in one line."""
    said = f"{name} must be {kind.words}, not {_given(value, kind)}"
    if advice := _PARSED.get(type(value).__name__) if "InboundEvent" in kind.makes else None:
        return f"{said}: {advice}"
    if isinstance(value, type) and not inspect.isabstract(value):
        return f"{said}: make one, {_example(value.__name__)}"
    if isinstance(value, str) and "number" in kind.words and _is_number(value):
        return f"{said}: pass the number without quotes"
    if isinstance(value, str) and "a list of" in kind.words:
        return f'{said}: pass {name}=["…"]'
    if kind.makes and value is not None:
        made = kind.makes[0]
        return f"{said}: {_ABSTRACT.get(made) or f'make one, {_example(made)}'}"
    return said


def unknown(title: str, what: str, name: str, names: Iterable[str]) -> str:
    """Why a name is refused, with the one that was meant, or those that there are."""
    there = [each for each in names if each not in {"self", "cls"}]
    near = [each for each in [_MEANT.get(name)] if each in there]
    near = near or difflib.get_close_matches(name, there, n=1)
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}"
    return f"{title} has no {what} {name}: {advice}"


def refuse_unknown(model: type[BaseModel], given: Any, info: ValidationInfo) -> Any:
    """What was given, unless a field has no such name; a newer version may have stored more."""
    if isinstance(given, Mapping) and info.mode == "python":
        for name in given:
            if name not in model.model_fields:
                if isinstance(getattr(model, str(name), None), model):
                    told = f"{model.__name__}.{name} is one by itself, and no field"
                else:
                    told = unknown(model.__name__, "field", str(name), model.model_fields)
                raise PydanticCustomError("unknown_field", "{told}", {"told": told})
    return given


def _given(value: object, kind: Kind) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    is_shown = value is None or isinstance(value, bool)
    if is_shown or (isinstance(value, int | float) and "number" in kind.words):
        return repr(value)
    if isinstance(value, str):
        is_word = len(value) <= LONGEST_WORD and value.isidentifier()
        return repr(value) if kind.is_choice and is_word else "a text"
    if isinstance(value, list | tuple | set | frozenset):
        inside = sorted({type(each).__name__ for each in value})
        return f"a {type(value).__name__} of {', '.join(inside) or 'nothing'}"
    if isinstance(value, Mapping):
        return "a mapping of other things"
    return f"an object of {type(value).__name__}"


def _example(name: str) -> str:
    return _EXAMPLES.get(name, f"{name}(…)")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def kind_of(hint: Any) -> Kind:
    """The kind that an annotation tells."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _annotated(hint.__origin__, hint.__metadata__)
    if origin in {Union, UnionType}:
        return _any_of([kind_of(each) for each in args])
    if origin is Literal:
        return _choice(args)
    if known := _PLAIN.get(origin or hint):
        return known
    if isinstance(origin, type):
        return _generic(origin, args)
    return _object(hint) if isinstance(hint, type) else ANYTHING


def _annotated(base: Any, metadata: Iterable[object]) -> Kind:
    kind = kind_of(base)
    for each in metadata:
        if isinstance(each, Range):
            return Kind(partial(_is_within, kind, each), str(each))
        if isinstance(each, Advice):
            fits = partial(_is_pasted, kind) if isinstance(each, AsPasted) else kind.fits
            return kind._replace(fits=fits, words=f"{kind.words} ({each.text})")
        if each is ELSEWHERE:
            return ANYTHING
    return kind


def _is_within(kind: Kind, within: Range, value: Any) -> bool:
    return kind.fits(value) and value in within


def _is_pasted(kind: Kind, value: Any) -> bool:
    return kind.fits(value.strip() if isinstance(value, str) else value)


def _choice(args: tuple[Any, ...]) -> Kind:
    words = " or ".join(f'"{each}"' if isinstance(each, str) else repr(each) for each in args)
    return Kind(lambda value: isinstance(value, str) and value in args, words, (), True)


def _any_of(kinds: list[Kind]) -> Kind:
    fits = tuple(kind.fits for kind in kinds)
    words = dict.fromkeys(kind.words for kind in kinds)
    makes: tuple[str, ...] = reduce(lambda some, kind: some + kind.makes, kinds, ())
    return Kind(
        lambda value: any(each(value) for each in fits),
        " or ".join([*(each for each in words if each != "None"), *(["None"] * ("None" in words))]),
        makes,
        any(kind.is_choice for kind in kinds),
    )


def _generic(origin: type, args: tuple[Any, ...]) -> Kind:
    """A container, with what is in it, where that can be seen without using it up."""
    if issubclass(origin, Mapping):
        values = [kind_of(each) for each in args] or [ANYTHING] * 2
        return Kind(
            lambda value: (
                isinstance(value, origin)
                and all(values[0].fits(k) and values[1].fits(v) for k, v in value.items())
            ),
            f"a mapping of {_plural(values[0].words)} to {_plural(values[1].words)}",
        )
    if not issubclass(origin, Iterable):
        return _object(origin)
    inner = kind_of(args[0]) if args else ANYTHING
    return Kind(
        lambda value: (
            isinstance(value, origin)
            and not isinstance(value, str | bytes | Mapping | BaseModel)  # they iterate, too
            and (not isinstance(value, Collection) or all(map(inner.fits, value)))
        ),
        f"a {_TITLES.get(origin, origin.__name__)} of {_plural(inner.words)}",
    )


def _plural(words: str) -> str:
    return re.sub(r"\ban? (\w+)", r"\1s", words)


def _object(kind: type) -> Kind:
    if getattr(kind, "_is_protocol", False):
        wanted = [name for name in dir(kind) if not name.startswith("_")]

        def fits(value: object) -> bool:
            return not isinstance(value, type) and all(_has(value, name) for name in wanted)
    elif typing.is_typeddict(kind):
        return Kind(lambda value: isinstance(value, Mapping), "a mapping")
    else:

        def fits(value: object) -> bool:
            return isinstance(value, kind)

    article = "an" if kind.__name__[0] in "AEIO" else "a"
    return Kind(fits, f"{article} {kind.__name__}", (kind.__name__,))


def _has(value: object, name: str) -> bool:
    """Whether it has the attribute, as far as can be seen without asking for it."""
    kind = type(value)
    return (
        hasattr(kind, name)
        or hasattr(kind, "__getattr__")
        or name in getattr(value, "__dict__", ())
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: object) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)  # type: ignore[arg-type]


_TITLES: Mapping[type, str] = {
    collections.abc.Iterable: "list",
    collections.abc.Sequence: "list",
    collections.abc.Collection: "list",
}
#: What an error tells to write, where a class is not made of its arguments alone.
_EXAMPLES: Mapping[str, str] = {
    "ConvSyncClient": 'ConvSyncClient("https://api.example.com")',
    "EventStore": 'SQLiteEventStore("convsync.db")',
    "WAHAReply": 'WAHAReply("https://waha.example.com")',
}
#: What there is to pass where a class is no one's to make.
_ABSTRACT: Mapping[str, str] = {
    "BaseChatModel": 'pass a chat model, init_chat_model("…")',
    "Runnable": "pass a function of the output, or a Runnable",
}
#: Where to take what ``waha.parse_event`` finds besides an event.
_PARSED: Mapping[str, str] = {
    "Ignored": "parse_event ignored this delivery: pass what it returns to amend(), or answer 200",
    "OperatorMessage": "pass it to take_over()",
}
#: What others call our fields: WAHA's words, the API server's, and short ones.
_MEANT: Mapping[str, str] = {
    "message": "text",
    "body": "text",
    "content": "text",
    "id": "event_id",
    "message_id": "event_id",
    "phone": "phone_number",
    "number": "phone_number",
    "from_": "phone_number",
    "from": "phone_number",
    "tenant": "subdomain",
}
ANYTHING = Kind(lambda _: True, "anything")
_PLAIN: Mapping[Any, Kind] = {
    Any: ANYTHING,
    object: ANYTHING,
    type(None): Kind(lambda value: value is None, "None"),
    type: Kind(lambda value: isinstance(value, type), "a class"),
    collections.abc.Callable: Kind(callable, "a function"),
    bool: Kind(lambda value: isinstance(value, bool), "True or False"),
    int: Kind(_is_int, "a whole number"),
    float: Kind(_is_float, "a number"),
    str: Kind(lambda value: isinstance(value, str), "a text"),
    os.PathLike: Kind(lambda value: isinstance(value, os.PathLike), "a path"),
    bytes: Kind(lambda value: isinstance(value, bytes), "bytes"),
}
