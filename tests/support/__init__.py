"""What the tests share: an embedded PostgreSQL, a database per test, DAG builders, a scripted executor."""
