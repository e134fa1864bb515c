"""What the middleware keeps beside a thread, with the thread's own checkpointer.

State of a graph is streamed, shown in results, and rolled back by replays and forks: what was
recorded stays recorded. So these notes are a checkpoint of their own, under a namespace that no
graph has. They are there in the next process, and gone with the thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointMetadata,
    empty_checkpoint,
)

from langchain_convsync._flow import Flow, Io

#: Where a graph finds the checkpointer of its thread, its own or its parent's.
SAVER = "__pregel_checkpointer"
#: The namespace of the notes.
NAMESPACE = "__langchain_convsync__"
#: The one channel of their checkpoint.
CHANNEL = "notes"
#: Messages of the customer that are remembered as recorded.
MOST_RECORDED = 500


@dataclass(slots=True)
class Notes:
    """Plain values, and none that names the customer.

    Attributes:
        exchange: Which exchange they were written in last.
        open: Whether it has messages to record: a replayed run has none.
        tenant: Whose conversation it is.
        watermark: How much of the conversation the thread holds.
        pending: The customer's words that are not written yet, by the ids of their messages.
        recorded: Ids of those that are.
        replied: The id of the reply that was recorded last.
        decided: What was decided and is not synced yet.
        agents: What each agent that is at work needs to go on, by its checkpoint namespace.
    """

    exchange: str = ""
    open: bool = False
    tenant: dict[str, str | None] = field(
        default_factory=lambda: {"bot_id": None, "subdomain": None}
    )
    watermark: dict[str, Any] | None = None
    pending: dict[str, str] = field(default_factory=dict)
    recorded: list[str] = field(default_factory=list)
    replied: str | None = None
    decided: dict[str, Any] = field(default_factory=dict)
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)

    def written(self, key: str) -> None:
        """A message of the customer's is recorded."""
        self.pending.pop(key, None)
        self.recorded = [*self.recorded, key][-MOST_RECORDED:]

    def close(self) -> None:
        """The exchange is recorded."""
        for key in list(self.pending):
            self.written(key)
        self.open, self.pending, self.decided, self.agents = False, {}, {}, {}


class Memory:
    """The notes of one thread.

    Args:
        config: The config of one of the graph's hooks or tools.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        configurable = config.get("configurable") or {}
        saver, thread = configurable.get(SAVER), configurable.get("thread_id")
        self._saver: BaseCheckpointSaver[Any] | None = None
        if isinstance(saver, BaseCheckpointSaver) and thread is not None:
            self._saver = saver
        self._config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": NAMESPACE}}
        self._version: Any = None

    def load(self) -> Flow[Notes | None]:
        """The notes; None where there are none, or nothing keeps them."""
        if (saver := self._saver) is None:
            return None
        found = yield from Io(saver.get_tuple, saver.aget_tuple, self._config)
        if found is None:
            return None
        self._version = found.checkpoint["channel_versions"].get(CHANNEL)
        kept = found.checkpoint["channel_values"].get(CHANNEL) or {}
        known = Notes.__dataclass_fields__
        return Notes(**{name: value for name, value in kept.items() if name in known})

    def prepared(self, notes: Notes) -> Io[Any] | None:
        """The step that keeps the notes as they are now; None where nothing keeps them."""
        if (saver := self._saver) is None:
            return None
        self._version = saver.get_next_version(self._version, None)
        versions = {CHANNEL: self._version}
        # Later ids are greater: of two that are saved at the same time the newer one is found.
        checkpoint: Checkpoint = {
            **empty_checkpoint(),
            "channel_values": {CHANNEL: asdict(notes)},
            "channel_versions": versions,
        }
        metadata: CheckpointMetadata = {"source": "update", "step": -1, "parents": {}}
        return Io(saver.put, saver.aput, self._config, checkpoint, metadata, versions)
