"""Executors that Airflow users run, with real brokers, workers and tasks."""
