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
        turns: (b) Turns per measurement; two per conversation at least.
        long: (c) Turns of the long conversation.
        operations: (d), (e) Operations per measurement.
        imports: (f) Fresh processes of each kind.
        seconds: (g) For how long events are offered.
        offered: (g) Events per second.
        steady: (h) Turns whose memory is watched.
    """

    rounds: int = 5
    delays: tuple[float, ...] = (0.0, 0.02, 0.1)
    thinking: tuple[float, ...] = (0.0, 1.0)
    at_rest: int = 7
    in_flight: tuple[int, ...] = (1, 50, 200)
    turns: int = 150
    long: int = 1000
    operations: int = 200
    imports: int = 11
    seconds: float = 5.0
    offered: int = 500
    steady: int = 5000


WHOLE = Sizes()
QUICK = Sizes(
    rounds=1,
    thinking=(0.0,),
    at_rest=2,
    in_flight=(1, 50),
    turns=50,
    long=60,
    operations=30,
    imports=3,
    seconds=1.0,
    steady=300,
)
#: For a test of the benchmarks themselves.
TINY = Sizes(
    rounds=1,
    delays=(0.0,),
    thinking=(0.0,),
    at_rest=1,
    in_flight=(2,),
    turns=2,
    long=20,
    operations=3,
    imports=1,
    seconds=0.1,
    offered=50,
    steady=20,
)
