"""Compiled dag versions."""
