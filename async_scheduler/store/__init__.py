"""The only SQL of the redesigned scheduler: statements on Airflow's own tables, and functions that run them.

Statements are SQLAlchemy Core, built once per dialect and kept (``dialect``). Every function takes the
session of the caller's transaction and never commits. Locks are taken in one order by all of them:
advisory lock, ``slot_pool``, ``dag``, ``dag_run``, ``task_instance``; rows of one table in the order of
their primary key, so that two transactions of this scheduler cannot wait for each other. An UPDATE
repeats in its WHERE the state that the decision was made on and returns how many rows it found in it:
fewer than asked for is a lost race, and the caller looks at the run again.
"""
