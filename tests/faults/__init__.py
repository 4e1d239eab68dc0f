"""Faults injected into real servers and real schedulers, and what must hold all the same."""
