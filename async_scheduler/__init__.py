"""Async-native scheduler for Apache Airflow: ``airflow scheduler --async``."""

from async_scheduler.version import __version__

__all__ = ["__version__"]
