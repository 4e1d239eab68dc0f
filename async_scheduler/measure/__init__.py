"""Measures what the routines of a process do and wait for. It knows no other package of ours, nor Airflow.

Nothing is wrapped, installed or written until an :class:`~async_scheduler.measure.instrument.Instrument` is
started, and stopping it leaves no wrapper behind. What a process can use at any time, at no cost:

- ``attribution.routine(name, iteration=n)`` names the work that follows, for every measurement;
- ``locks.NamedLock`` is an ``asyncio.Lock`` whose owner and waiters can be shown;
- ``loop_lag.watch`` reports how late the event loop is.

A process that can be traced wires it so::

    instrument = Instrument("scheduler")
    instrument.attach([async_engine.sync_engine])      # before the first connection
    instrument.start(directory, level="ledger")        # or later, or never; instrument.stop() ends it

    with attribution.routine("schedule", iteration=n):  # around every pass of a routine, always
        outcome = await stepping.stepped(run_once())    # times its steps at level "steps"
    with attribution.waiting("executor"):               # awaits that are neither database, pool nor lock
        ...

``DeadlockVictim`` may come out of the first block: the pass was rolled back to break a cycle and is to be
retried. The level ``steps`` knows the loop's busy share when the loop is ``stepping.new_event_loop``'s.
"""
