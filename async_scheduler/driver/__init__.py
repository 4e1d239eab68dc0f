"""Runs routines: when, how often, what happens when one fails, and how all of them stop.

Knows nothing of Airflow: a routine is anything with a name and ``async run_once()``.
"""
