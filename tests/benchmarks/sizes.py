"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The amounts of every case.

    Attributes:
        rounds: How often everything is measured.
        delays: (a) Round trips of the API server, in seconds.
        thinking: (a) Seconds that the agent takes.
        at_rest: (a) Turns per measurement with an agent that takes no time.
        in_flight: (b) Conversations at a time.
        turns: (b) Turns per measurement; one per conversation at least, and 50 at most.
        long: (c) Turns of the long conversation.
        long_rounds: (c) How often it is talked.
        operations: (d), (e) Operations per measurement.
        imports: (f) Fresh processes of each kind.
        seconds: (g) For how long events are offered.
        offered: (g) Events per second.
        webhook_rounds: (g) How often that is done.
        steady: (h) Turns whose memory is watched.
        requests: (i) Requests of each kind per measurement.
        at_distance: (j) Events per measurement.
        apart_rounds: (j) How often that is done.
        at_rest_for: (k) Seconds.
        conversations: (l) Of the full store; each had ten turns.
        steps: (l) Of each kind per measurement.
        waiting: (m) Messages that lie there when the processes begin.
        flood: (m) Messages of the tenant that floods.
    """

    rounds: int = 5
    delays: tuple[float, ...] = (0.0, 0.02, 0.1)
    thinking: tuple[float, ...] = (0.0, 1.0)
    at_rest: int = 3
    in_flight: tuple[int, ...] = (1, 50, 200)
    turns: int = 100
    long: int = 1000
    long_rounds: int = 2
    operations: int = 200
    imports: int = 11
    seconds: float = 3.0
    offered: int = 500
    webhook_rounds: int = 3
    steady: int = 2000
    requests: int = 200
    at_distance: int = 40
    apart_rounds: int = 1
    at_rest_for: float = 20.0
    conversations: int = 100_000
    steps: int = 100
    waiting: int = 1000
    flood: int = 3000


WHOLE = Sizes()
QUICK = Sizes(
    rounds=1,
    delays=(0.0, 0.02),
    thinking=(0.0,),
    at_rest=3,
    in_flight=(50,),
    turns=50,
    long=100,
    long_rounds=1,
    operations=30,
    imports=1,
    seconds=0.6,
    webhook_rounds=1,
    steady=200,
    requests=50,
    at_distance=8,
    at_rest_for=5.0,
    conversations=10_000,
    steps=50,
    waiting=100,
    flood=300,
)
#: For a test of the benchmarks themselves.
TINY = Sizes(
    rounds=1,
    delays=(0.0,),
    thinking=(0.0,),
    at_rest=1,
    in_flight=(2,),
    turns=2,
    long=12,
    long_rounds=1,
    operations=3,
    imports=1,
    seconds=0.1,
    offered=50,
    webhook_rounds=1,
    steady=20,
    requests=3,
    at_distance=2,
    at_rest_for=1.0,
    conversations=2000,
    steps=5,
    waiting=4,
    flood=4,
)
