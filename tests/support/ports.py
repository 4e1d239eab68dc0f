"""TCP ports that nobody takes by chance while a test's server is on its way to them."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
LOWEST, HIGHEST = 10_000, 32_000
"""Below the ports that Linux gives to outgoing connections: those can be gone before a server has started."""


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    chosen = random.SystemRandom()  # pytest-randomly gives each process the same ordinary random numbers
    while True:
        port = chosen.randint(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
