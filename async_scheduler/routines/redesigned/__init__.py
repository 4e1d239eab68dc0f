"""The scheduling stages redesigned: decisions over sets of rows, woken by events, in short transactions.

Each stage claims rows, decides with ``decide/`` and writes with ``store/``. ``dirty`` remembers which runs
have to be looked at; a run that nothing happened to is not looked at again. What a stage does not cover
itself it hands to Airflow's own function for the same rows (``handover``).
"""
