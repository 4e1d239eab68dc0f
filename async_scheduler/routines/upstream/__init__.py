"""The scheduling stages as Airflow implements them, each in a transaction of its own (the naive arm)."""
