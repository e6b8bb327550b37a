"""A real board that runs an RPC server: TVM's own in Python, or board_server.c."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm.rpc import base

from schedules.errors import LowbitError
from tvm_lowbit.boards.connection import connect
from tvm_lowbit.boards.remote_session import RemoteSession


@dataclass(frozen=True)
class RpcBoard:
    """A board on the network. Its server runs what it is sent: keep it on a network you trust, or behind a tunnel.

    Parameters
    ----------
    host : str
        Name or address of the board; of the tracker with `tracker`.
    port : int
        Port of the server or tracker.
    key : str
        Key of the server; with `tracker`, the kind of board to ask for.
    tracker : bool
        Whether to ask a tracker for a free board.
    connect_timeout : float
        Seconds to wait for the board, or for the tracker to find one.
    call_timeout : float
        Seconds to wait for each answer.
    session_timeout : float
        Seconds after which the board ends the session, so that it is free again when this machine goes away.
    """

    host: str
    port: int
    key: str = ""
    tracker: bool = False
    connect_timeout: float = 8.0
    call_timeout: float = 300.0
    session_timeout: float = 3600.0

    @property
    def name(self) -> str:
        """Return what messages call the board.

        Returns
        -------
        str
            Its address.
        """
        key = f" key {self.key}" if self.key else ""
        return f"{'tracker ' if self.tracker else ''}{self.host}:{self.port}{key}"

    @property
    def machine(self) -> str | None:
        """Return the architecture of its libraries; see `Board.machine`."""
        return None

    def missing(self) -> str | None:
        """Return what has to be installed.

        Returns
        -------
        str or None
            Nothing on this side: always None.
        """
        return None

    def open(self) -> RemoteSession:
        """Connect to the board.

        Returns
        -------
        RemoteSession
            To be closed, or the board stays taken until `session_timeout`.

        Raises
        ------
        LowbitError
            When it cannot be reached, refuses the key or is taken.
        """
        with self._reached():
            host, port, key = self._ask_tracker() if self.tracker else (self.host, self.port, self.key)
            rpc = connect(
                host,
                port,
                key,
                connect_timeout=self.connect_timeout,
                call_timeout=self.call_timeout,
                session_timeout=self.session_timeout,
            )
        return RemoteSession(
            self.name,
            rpc,
            "is the board still on, and its server running? Calls may take at most "
            f"{self.call_timeout:g} s (call_timeout), sessions {self.session_timeout:g} s",
        )

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            server = f"python -m tvm.exec.rpc_server --host 0.0.0.0 --port {self.port} --key {self.key or 'KEY'}"
            raise LowbitError(
                f"board {self.name}",
                "an RPC server that takes this client",
                str(error).strip().splitlines()[-1],
                "is a board free in the tracker's summary?" if self.tracker else f"on the board: {server}",
            ) from error

    def _ask_tracker(self) -> tuple[str, int, str]:
        # As tvm.rpc.TrackerSession.request does it, which would retry a minute long and wait for ever.
        with socket.create_connection((self.host, self.port), timeout=self.connect_timeout) as tracker:
            tracker.sendall(base.RPC_TRACKER_MAGIC.to_bytes(4, "little"))
            if base.recvall(tracker, 4) != base.RPC_TRACKER_MAGIC.to_bytes(4, "little"):
                raise ConnectionError("something that is no RPC tracker")
            base.sendjson(tracker, [base.TrackerCode.REQUEST, self.key, "", 1])
            answer = base.recvjson(tracker)
        if answer[0] != base.TrackerCode.SUCCESS:
            raise ConnectionError(f"the tracker's answer {answer}")
        host, port, key = answer[1]
        return host, port, key
