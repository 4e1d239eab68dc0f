"""Sessions, transactions and database errors: everything between a routine and the driver.

``address`` says where the database is in the words of the async driver (``libpq`` for asyncpg), ``opening``
finds out what it is like before the scheduler starts, ``engine`` builds the async engine, ``connections``
prepares what it opens, ``capacity`` says how many that may be. ``sessions`` lends a session to one
transaction at a time, ``transaction`` runs Airflow's code in it and delivers effects after the commit,
``joined`` makes nested ``provide_session`` calls part of the caller's transaction, ``faults`` sorts errors by
SQLSTATE or errno, ``fence`` keeps a scheduler that others have declared dead from committing.
"""
