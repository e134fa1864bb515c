"""Which agent answers a conversation, and what its run is told about whose it is."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from langchain_core.runnables import Runnable

from langchain_convsync import _forks
from langchain_convsync.errors import ConfigurationError, raised_by
from langchain_convsync.surfaces.context import ConversationRef, NoCustomerError, Tenant
from langchain_convsync.turns.agent import takes_context
from langchain_convsync.turns.mistakes import no_agent, no_factory
from langchain_convsync.turns.parts import parts_of
from langchain_convsync.turns.remote import at_home
from langchain_convsync.turns.shapes import kind_of

Agent: TypeAlias = (
    Runnable[Any, Any]
    | Callable[[Tenant], Runnable[Any, Any]]
    | Callable[[ConversationRef], Runnable[Any, Any]]
)
#: Makes a run's ``runtime.context``.
ContextOf: TypeAlias = Callable[[ConversationRef], Any]


class Agents:
    """The agent of each conversation: one for all, or what a factory makes.

    A factory is called once per tenant, with the ``Tenant``. Where it, or an agent of its making,
    asks that for a customer, it is one of conversations: it is called in each turn.

    Args:
        agent: The agent or the factory.
        context: The ``runtime.context`` of each run.

    Raises:
        ConfigurationError: One of them is not what it should be, as far as that can be seen now.
    """

    def __init__(self, agent: Agent, context: ContextOf | None = None) -> None:
        given: object = agent  # whatever the annotation says
        if not isinstance(given, Runnable) and (flaw := no_agent(given) or no_factory(given)):
            raise ConfigurationError(f"agent= {flaw}")
        told: object = context
        if told is not None and (not callable(told) or inspect.iscoroutinefunction(told)):
            raise ConfigurationError(_NO_CONTEXT)
        self._agent: Any = at_home(given) if isinstance(given, Runnable) else given
        self._context = context
        self._made: dict[Tenant, Runnable[Any, Any]] = {}
        self._per_conversation = False
        self._awaited: bool | None = None
        self._blocking: dict[int, bool] = {}
        self._lock = _forks.lock()
        if isinstance(self._agent, Runnable):
            self._require_context(self._agent)

    def of(self, ref: ConversationRef) -> Runnable[Any, Any]:
        """The agent that answers this conversation.

        Raises:
            ConfigurationError: The factory makes no agent, or one that takes no context.
        """
        if isinstance(self._agent, Runnable):
            return self._agent
        if not self._per_conversation:
            try:
                return self._of(Tenant(ref.subdomain, ref.bot_id))
            except NoCustomerError:
                self._per_conversation = True
        return self._make(ref)

    def require(self, *, awaited: bool) -> None:
        """Refuse an agent that cannot be called; one that a factory makes, when it is made.

        Raises:
            ConfigurationError: Parts of it can only be awaited, and the calls block; or parts can
                only block, besides. One whose parts only block is awaited on a thread.
        """
        if self._awaited is awaited:
            return
        if isinstance(self._agent, Runnable):
            _require(self._agent, awaited=awaited)
        self._awaited = awaited

    def blocks(self, agent: Runnable[Any, Any]) -> bool:
        """Whether the agent cannot be awaited."""
        if self._per_conversation:
            return bool(parts_of(agent).blocking)
        if (known := self._blocking.get(id(agent))) is None:
            known = self._blocking[id(agent)] = bool(parts_of(agent).blocking)
        return known

    def _of(self, tenant: Tenant) -> Runnable[Any, Any]:
        with self._lock:
            if tenant not in self._made:
                self._made[tenant] = self._make(tenant)
            return self._made[tenant]

    def learn_from(self, error: Exception) -> bool:
        """Whether a run failed because its agent, made for a tenant, asked that for a customer."""
        if isinstance(error, NoCustomerError):
            made_for = [*self._made]
            if any(error.obj is tenant for tenant in made_for):
                self._per_conversation = True
                return True
        return False

    def options(self, ref: ConversationRef) -> dict[str, Any]:
        """What a run of the agent is given besides its input.

        Raises:
            ConfigurationError: ``context=`` is async.
        """
        if self._context is None:
            return {}
        with raised_by("context="):
            return {"context": _awaited_nowhere(self._context(ref), _NO_CONTEXT)}

    def _make(self, of: Tenant | ConversationRef) -> Runnable[Any, Any]:
        with raised_by("agent="):
            made: object = _awaited_nowhere(self._agent(of), _ASYNC_FACTORY)
        if not isinstance(made, Runnable):
            raise ConfigurationError(f"what the function agent= returned {_no_runnable(made)}")
        agent = at_home(made)
        self._require_context(agent)
        if self._awaited is not None:
            _require(agent, awaited=self._awaited)
        return agent

    def _require_context(self, agent: Runnable[Any, Any]) -> None:
        if self._context is not None and not takes_context(agent):
            message = (
                "context= is for graphs, such as create_agent makes, and an agent of type "
                f"{type(agent).__name__} takes none: leave it out, and ask current_conversation() "
                "inside the agent"
            )
            raise ConfigurationError(message)


def _require(agent: Runnable[Any, Any], *, awaited: bool) -> None:
    parts = parts_of(agent)
    if awaited:
        parts.require_one_kind()
    else:
        parts.require_blocking()


_ASYNC_FACTORY = (
    "the function agent= is async: one that answers is passed as RunnableLambda(function), one "
    "that makes agents has to be plain, and what they await is awaited in the agent itself"
)
_NO_CONTEXT = "context= must be a plain function that makes the run's context of a ConversationRef"


def _awaited_nowhere(made: object, otherwise: str) -> object:
    if isinstance(made, Coroutine):
        made.close()  # never awaited, and that is said better below
    if isinstance(made, Awaitable):
        raise ConfigurationError(otherwise)
    return made


def _no_runnable(made: object) -> str:
    """What is to be said of what a factory made, if that is no agent."""
    if not isinstance(made, str) and (flaw := no_agent(made)):
        return flaw
    return (
        f"is {kind_of(made)}: it must be a Runnable, such as a compiled graph; a function that "
        "answers by itself is passed as RunnableLambda(function)"
    )
