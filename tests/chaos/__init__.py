"""Chaos: the engine is killed again and again, and nothing may be lost, doubled or out of order.

``python -m tests.chaos`` plays conversations against real processes and judges what is left:

=============  =====================================================================================
``script``     who says what, planned from a seed: bursts, texts that are said again and again,
               tenants that share customers and event ids, events delivered twice at once, under
               number and LID
``driver``     delivers every event until it is answered; kills workers, API server and Redis with
               ``kill -9`` meanwhile, or pauses workers for longer than their leases
``worker``     a process that answers events as ``answering`` says: with ``TurnRunner``, whose agent
               tells in replies and state what it saw, or with the API document's sample flow
``fake_api``   the documented API, durable and not idempotent; of its writes 15 % go wrong
``oracle``     compares what was sent with what was kept: pure
``guards``     takes one guard out of the engine
``report``     what must not be, and the table
=============  =====================================================================================

What is promised, hence what a run must show, is zero everywhere. One exception: a worker that is
paused for longer than its lease, with an API server that ignores ``Idempotency-Key`` (``--profile
pauses`` without ``--keys``). There messages and syncs may be doubled, and the doubled ones come
late; they are counted. Replies that were never sent are counted too: they are sent at most once.

``--red`` shows that a run would tell: without any one of the guards, and with the sample flow, it
must go red.

Time is short here, so that a run is dense. A lease lasts 1.5 s, a request 0.4 s, and a write that
got no answer is applied within 0.3 s or never; the engine waits 0.8 s for that. ``answering`` holds
these numbers, ``worker.SHORTENED`` what else is set in the worker processes. Children are forked
from a warm process, so that a kill costs milliseconds.
"""
