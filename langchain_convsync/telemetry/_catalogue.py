"""Every metric there is: its kind, its labels, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Upper bounds of every histogram's buckets, in seconds: from a store's answer to a slow agent.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As the code counts it, and as OpenTelemetry's ``convsync.<name>``.
        kind: As Prometheus calls it; histograms are in seconds.
        meaning: One line.
        labels: The labels that its series have.
        span: What the span of a timed block is called, before its operation.
    """

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()
    span: str = ""

    @property
    def prometheus(self) -> str:
        """The name in Prometheus."""
        ending = {"counter": "_total", "histogram": "_seconds", "gauge": ""}[self.kind]
        return f"convsync_{self.name}{ending}"


def _timed(name: str, meaning: str, *labels: str, span: str = "") -> Metric:
    return Metric(name, "histogram", meaning, labels, span)


def _counted(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "counter", meaning, labels)


def _looked_up(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "gauge", meaning, labels)


_ALL = (
    # A turn
    _timed("turn", "An attempt at a turn, from acquiring the conversation to its end", span="turn"),
    _timed("turn_phase", "A phase of a turn", "phase", span="turn"),
    _counted("turns", "Calls and workers' turns, by what became of the event", "status"),
    _counted("turns_failed", "Turns that ended as dead letters"),
    _counted("turns_fenced", "Turns that another process took over"),
    _counted("handoffs", "Conversations that an agent has handed over to a human"),
    _counted("handoff_failures", "Calls of on_handoff= that failed", "error"),
    _counted("said", "Messages that the bot was to write first, by what became of them", "outcome"),
    _counted("tokens", "Tokens that models of agents were given, and gave", "model", "direction"),
    _counted("budget_refusals", "Turns that budget= refused"),
    _counted("turns_rerun", "Turns that began again because another message came"),
    _counted("agent_failures", "Runs of the agent that failed", "error"),
    _counted("agents_stuck", "Runs of the agent that did not come back, and cannot be stopped"),
    _counted("loops", "Calls of tools that an agent repeated, by what it was told", "outcome"),
    _counted("interrupts", "Runs of the agent that stopped to wait, by whom they ask", "by"),
    _counted("runs_abandoned", "Runs that were ended in the agent's own memory"),
    _counted("resume_failures", "Calls of resume= that failed", "error"),
    _counted("extraction_failures", "Runs whose state could not be extracted", "error"),
    _counted("intents_refused", "Intents that the profile does not know"),
    _counted("amendments", "Edits and revocations, by what became of them", "what", "outcome"),
    _counted("media", "Files of messages, by what became of them", "what", "outcome"),
    _counted("lid_lookups", "LIDs whose phone number WAHA was asked for", "outcome"),
    _counted("lids_linked", "LIDs that lead to a phone number's conversation since then"),
    _counted("own_echoes_from_app", "Our own replies that WAHA took for a human's"),
    _counted(
        "automatic_messages", "Words of the business that no human wrote, by their sign", "by"
    ),
    _counted("silences", "Conversations that went too fast, and were paused"),
    _counted("snapshots_used", "Reads that the last turn's snapshot replaced"),
    _counted("unreadable", "Stored things that cannot be read", "what"),
    _counted("stores_changed", "Stores that were emptied, or begun anew, under a running process"),
    _counted("records_mended", "Operations before which Redis' records were mended"),
    _counted(
        "state_rejected", "Decisions of a run that were not a state update, or too long for one"
    ),
    _counted("unread_kinds", "Deliveries of messages of a kind that cannot be read", "what"),
    _counted("cuts", "Texts, histories and states that were longer than a turn takes", "what"),
    # The API server, and WAHA
    _timed("api_request", "A request to the API server", "operation", "status", span="api"),
    _timed("waha_request", "A request to WAHA", "operation", "status", span="waha"),
    _timed("tenant_lookup", "A look-up of a tenant, cached ones included", span="tenant lookup"),
    _counted("api_retries", "Requests that the client repeated", "method", "error"),
    _counted("mismatched_answers", "Answers about another customer or tenant", "field"),
    _counted("requests_held", "Requests held back from a failing API server"),
    _counted("circuits_opened", "Times an API server failed so often that requests wait"),
    # Writes and replies
    _timed("delivery", "Working through a queue of writes or replies", "queue", span="delivery"),
    _counted("writes", "Writes confirmed", "operation"),
    _counted("write_retries", "Writes to be tried again", "operation", "error"),
    _counted("verifications", "Writes looked up because their end was unknown", "operation"),
    _counted("unverified", "Writes of which no read can tell", "policy"),
    _counted("messages_forgotten", "Messages that the API server took and did not keep"),
    _counted("messages_moved", "Messages that followed the customer to a new session"),
    _counted("syncs_dropped", "State updates whose session was over"),
    _counted("dead_letters", "Writes and replies that wait for an operator", "operation"),
    _counted("mismatch", "Turns and writes stopped before a foreign tenant", "operation"),
    _counted("replies_sent", "Replies sent, by what proved it", "by"),
    _counted("signs_failed", "Signs of reading and typing that WAHA did not show", "error"),
    _counted("reply_retries", "Replies to be tried again"),
    _counted("account_restrictions", "Times an account was to send nothing for a while", "kind"),
    _counted("replies_arrived", "Word of WhatsApp about replies, by how far they got", "state"),
    _counted("on_undelivered_failures", "Calls of on_undelivered that failed"),
    _counted("replies_refused", "Sends that WAHA refused, by what it refused", "kind"),
    _counted("reply_verifications", "Replies looked for in the chat"),
    _counted("replies_resent", "Replies that were not there, and sent again"),
    _counted("replies_unverified", "Replies of which WAHA cannot tell", "policy"),
    _counted(
        "replies_withheld", "Replies dropped because a human took over or the customer wrote on"
    ),
    _counted("on_reply_failures", "Calls of on_reply that failed"),
    # Stores and workers
    _looked_up("store_up", "Whether the event store answered just now"),
    _looked_up("backlog", "What the event store still has to do", "what"),
    _looked_up(
        "oldest_due_seconds", "Seconds for which the oldest work of a queue is due", "queue"
    ),
    _looked_up("oldest_unsent_seconds", "Seconds since the turn of the oldest reply that waits"),
    _looked_up(
        "account_restricted",
        "Accounts that send nothing now, or where it is capping begin no chats",
        "kind",
    ),
    _counted("worker_failures", "Work that failed", "queue", "error"),
    _counted("machine_shortages", "Times the machine lacked something, and work waited", "what"),
    _counted("heartbeat_failures", "Leases that could not be renewed in time"),
    _counted("leases_lost", "Leases lost to another process"),
    _counted("release_failures", "Leases that could not be given back"),
    _counted("leftovers", "Calls and blocks that left work in the store"),
    _counted("lost_with_memory", "Events, writes and replies that ended with a store in memory"),
    _counted("operator", "What operators decided", "what"),
    # Surfaces
    _counted("claims", "Claims of once, aonce and deduplicated", "status"),
    _counted("deliveries", "Deliveries to the webhook", "status"),
    _counted("callback_duplicates", "Syncs of callback handlers that were done before"),
    _counted("callback_events_unnamed", "Syncs of callback handlers without an event's id"),
    _counted("callback_failures", "Syncs of callback handlers that failed", "error"),
    _counted("callback_runs_forgotten", "Runs that callback handlers had no room for"),
    _counted("history_failures", "Reads and writes of chat histories that failed", "error"),
    _counted("incomplete_answers", "Answers of a model that were cut off"),
    _counted("limit_answers", "Words by which LangChain ended a run at a limit, not recorded"),
    _counted("journal_failures", "Writes of histories that could not be queued", "error"),
    _counted(
        "middleware_failures", "Reads and writes of the middleware that failed", "doing", "error"
    ),
    _counted(
        "once_calls", "Calls of tools that act once in a turn, by what became of them", "outcome"
    ),
    _counted("tool_failures", "Calls of tools that failed", "tool", "error"),
    # The reference server
    _timed("server_request", "A request to the reference server", "operation", "status"),
    _counted("forwards", "Deliveries to the agent's webhook", "status"),
)
METRICS = {metric.name: metric for metric in _ALL}
