"""Compare Airflow schedulers side by side on the same work."""
