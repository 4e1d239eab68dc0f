"""The bench executor and the worker simulator behind it."""
