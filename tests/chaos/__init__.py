"""Chaos: the engine is killed again and again, and nothing may be lost, doubled or out of order.

``python -m tests.chaos`` plays conversations against real processes and judges what is left:

=============  =====================================================================================
``script``     who says what, planned from a seed: bursts, texts that are said again and again,
               tenants that share customers and event ids, events delivered twice at once, under
               number and LID
``driver``     delivers every event until it is answered; kills workers, API server, WAHA and Redis
               with ``kill -9`` meanwhile, or pauses workers for longer than their leases
``worker``     a process that answers events as ``answering`` says: with ``TurnRunner``, whose agent
               tells in replies and state what it saw, or with the API document's sample flow
``fake_api``   the documented API, durable and not idempotent
``fake_waha``  WAHA as far as replies need it, likewise; it echoes what it sends, or does not
``faulty``     what both stand on: an HTTP server of whose writes 14 % go wrong
``oracle``     compares what was sent with what was kept: pure
``guards``     takes one guard out of the engine
``report``     what must not be, and the table
=============  =====================================================================================

What is promised, hence what a run must show, is zero everywhere. One exception: a worker that is
paused for longer than its lease. There replies may be doubled, as WAHA knows no keys, and so may
messages and syncs, unless the API server honours ``Idempotency-Key`` (``--keys``); the doubled
ones come late. They are counted. Without WAHA (``--waha none``) replies are sent at most once:
those that were never sent are counted, too.

``--red`` shows that a run would tell: without any one of the guards, and with the sample flow, it
must go red.

Time is short here, so that a run is dense. A lease lasts 1.5 s, a request 0.4 s, and a write that
got no answer is applied within 0.3 s or never; the engine waits 0.8 s for that. ``answering`` holds
these numbers, ``worker.SHORTENED`` what else is set in the worker processes. Children are forked
from a warm process, so that a kill costs milliseconds.
"""
