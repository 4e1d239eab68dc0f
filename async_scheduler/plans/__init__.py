"""From Airflow's serialized DAGs to plans: the one place that reads them, and a bounded cache."""
