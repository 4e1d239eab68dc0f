"""Scheduling decisions as pure functions: rows in, decisions out.

No clock, no session, no Airflow object. ``plan`` is what a dag version means for the scheduler, ``states``
the vocabulary, ``board`` the states of one run's task instances while it is being decided, ``rules`` the
trigger rules, ``dependencies`` everything else that can hold a task instance back, ``evaluate`` the fix
point of one visit, ``verdict`` the end of a run, ``admit`` the critical section, ``start`` the windows of
queued runs. Every rule names the function of Airflow 3.3.2 that it mirrors.
"""
