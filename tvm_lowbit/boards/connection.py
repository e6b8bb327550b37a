"""Connecting to a TVM RPC server without ever waiting for ever.

TVM's client has no timeouts: it waits for a handshake, and later for each answer, until the connection breaks. A board
that lost its power never breaks it. So the handshake runs in a thread that can be given up, and TVM's socket, found
among the open files of this process, gets the receive timeout that TVM does not set.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvm import rpc

# One attempt at a time for each address, as the new sockets of two could not be told apart.
_attempts: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)


def _sockets_to(address: tuple[str, int]) -> Iterator[tuple[int, socket.socket]]:
    """Yield this process's connections to an address: the descriptor and a duplicate of it, closed afterwards."""
    for entry in Path("/dev/fd").iterdir():
        number = int(entry.name)
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as duplicate:
                peer = duplicate.getpeername()
                if isinstance(peer, tuple) and peer[:2] == address:
                    yield number, duplicate
        except OSError:
            continue  # closed since it was listed, or not connected


def _limit(connection: socket.socket, seconds: float) -> None:
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _attempt(address: tuple[str, int], key: str, patience: float, call_timeout: float) -> Any:
    deadline = time.monotonic() + patience
    busy = TimeoutError(f"no answer within {patience:g} s (another client may be using it)")
    lock = _attempts[address]
    if not lock.acquire(timeout=patience):
        raise busy
    try:
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(rpc.connect(*address, key))
            except Exception as error:  # whatever TVM raises is raised again by the thread that waits
                outcome.append(error)

        before = {number for number, _ in _sockets_to(address)}
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))
        # Asked once: a connection that is shut down below ends the thread with an error of its own, at any moment.
        answered = bool(outcome)
        for number, connection in _sockets_to(address):
            if number not in before and answered:
                _limit(connection, call_timeout)
            elif number not in before:
                connection.shutdown(socket.SHUT_RDWR)  # ends TVM's wait, and with it the thread
    finally:
        lock.release()
    if not answered:
        raise busy
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def connect(
    host: str, port: int, key: str, *, connect_timeout: float, call_timeout: float, session_timeout: float = 0
) -> Any:
    """Connect to an RPC server.

    Parameters
    ----------
    host : str
        Its name or address.
    port : int
        Its port.
    key : str
        The key it was started with.
    connect_timeout : float
        Seconds to wait for the handshake.
    call_timeout : float
        Seconds to wait for each answer.
    session_timeout : float
        Seconds after which the server ends the session, in case this machine goes away; 0 for never.

    Returns
    -------
    Any
        TVM's RPC session.

    Raises
    ------
    OSError
        When the name is unknown or there is no answer in time.
    RuntimeError
        When the connection or the handshake is refused.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys((str(entry[4][0]), port) for entry in found))
    if session_timeout:
        key += f" -timeout={session_timeout:g}"
    patience = connect_timeout / len(addresses)
    for address in addresses[:-1]:
        try:
            return _attempt(address, key, patience, call_timeout)
        except (OSError, RuntimeError):
            continue  # "localhost" is also an IPv6 address; the error worth reporting is the last one
    return _attempt(addresses[-1], key, patience, call_timeout)
