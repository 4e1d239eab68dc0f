"""The embedded dev cluster behind ``make demo`` and ``make cluster``.

Real Airflow processes over a real PostgreSQL that comes from a wheel, with nothing to install by hand:

- ``__main__``            the command line: ``demo`` and ``up``
- ``cluster``             starts everything in order and stops it again
- ``demo``                triggers the DAGs of ``config/dev/dags``, waits, judges
- ``expectations``        how each DAG must end (``config/dev/expected_runs.toml``) and the verdict
- ``data_directory``      the files of a cluster, its lock, its keys
- ``embedded_postgres``   the server, its left-overs, its databases
- ``airflow_config``      the ``airflow.cfg`` written for the processes
- ``processes``           the processes of ``config/dev/Procfile``, under honcho
- ``api``                 the few calls to Airflow's REST API that the demo needs
- ``screen``              what the terminal shows

It works from a source checkout: the DAGs, the process file and the settings live in ``config/dev``.
"""
