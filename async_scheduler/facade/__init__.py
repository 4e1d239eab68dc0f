"""What lets the redesigned routines work on a caller's own blocking session: the parts of ``compat``.

``driving`` runs a coroutine to its end from sync code, ``sessions`` makes transactions of routines out of
savepoints in the caller's, ``visible`` brings the caller's objects up to date. ``stages`` and ``events`` are
the routines cut to what Airflow's private methods do, ``plans`` their dags, ``loop`` takes turns as the sync
loop does. ``methods`` lists whose code each method runs, ``twin`` is the scheduler with Airflow's.
"""
