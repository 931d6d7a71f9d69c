"""Ports for the processes of a local run."""

import random
import socket
from contextlib import ExitStack

PORTS = range(20_000, 32_000)
"""Below every usual range of ephemeral ports: until a server listens on its port, and while it is down, no outgoing
connection can take it, not even a client's own attempt to reconnect (on loopback such an attempt may connect to
itself)."""
TRIES = 200


class NoPortError(RuntimeError):
    """None is free."""


def free_ports(count: int) -> list[int]:
    """Ports that are free now, each another one. Raises: NoPortError."""
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.sample(PORTS, TRIES):
            if _bind(held.enter_context(socket.socket()), port):
                ports.append(port)
            if len(ports) == count:
                return ports
    raise NoPortError(f"found no {count} free ports between {PORTS.start} and {PORTS.stop}")


def free_port(wanted: int = 0) -> int:
    """A port that is free now: the one that is wanted, or another if that is taken. Raises: NoPortError."""
    return wanted if wanted and is_free(wanted) else free_ports(1)[0]


def is_free(port: int) -> bool:
    """Whether a server could listen on it now."""
    with socket.socket() as listener:
        return _bind(listener, port)


def _bind(listener: socket.socket, port: int) -> bool:
    # As servers bind: connections of an earlier one that linger in TIME_WAIT don't count.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
