"""The command line: ``airflow scheduler --async`` and ``airflow async-scheduler …``."""
