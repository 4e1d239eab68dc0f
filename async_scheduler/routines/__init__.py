"""The routines of the scheduler, one kind of work each.

``upstream/`` holds those that call Airflow's own code for creating, starting, scheduling and enqueuing;
``executor``, ``deadlines``, ``heartbeat`` and ``timers`` are the same whatever algorithm runs.
"""
