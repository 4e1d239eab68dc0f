"""Statements: importing every module of the store registers them all."""

import importlib
import pkgutil

import async_scheduler.store

for module in pkgutil.iter_modules(async_scheduler.store.__path__):
    importlib.import_module(f"{async_scheduler.store.__name__}.{module.name}")
