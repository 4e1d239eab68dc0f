"""Sessions, transactions and database errors: everything between a routine and the driver.

``engine`` builds the async engine, ``sessions`` lends a session to one transaction at a time,
``transaction`` runs Airflow's code in it and delivers effects after the commit, ``joined`` makes nested
``provide_session`` calls part of the caller's transaction, ``faults`` sorts errors by SQLSTATE, ``fence``
keeps a scheduler that others have declared dead from committing.
"""
