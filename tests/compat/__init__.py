"""Airflow's runner and ours, called the same way on the same rows."""
