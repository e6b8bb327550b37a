"""A board on the network: what works, and how failures are told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from board_samples import HOST, LENGTH, axpy, export
from tvm.rpc.server import Server
from tvm.rpc.tracker import Tracker

from schedules.errors import LowbitError
from tvm_lowbit.boards import connection
from tvm_lowbit.boards.rpc import RpcBoard
from tvm_lowbit.linker import find_linker, host_machine

LOOPBACK = "127.0.0.1"


@pytest.fixture
def silent() -> Iterator[int]:
    """Yield the port of something that accepts connections and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener.getsockname()[1]


def test_an_unreachable_board_is_an_error_within_seconds(silent: int) -> None:
    with socket.create_server((LOOPBACK, 0)) as gone:
        closed = gone.getsockname()[1]
    began = time.monotonic()
    for board in (
        RpcBoard(LOOPBACK, closed),
        RpcBoard(LOOPBACK, closed, key="rpi4", tracker=True),
        RpcBoard(LOOPBACK, silent, connect_timeout=0.5),
        RpcBoard(LOOPBACK, silent, key="rpi4", tracker=True, connect_timeout=0.5),
        RpcBoard("board.invalid", 9090),
    ):
        with pytest.raises(LowbitError, match="hint: "):
            board.open()
    assert time.monotonic() - began < 10


def test_a_board_in_use_is_named_so_though_the_wait_ends_with_an_error(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = connection._sockets_to

    def slowly(address: tuple[str, int]) -> Iterator[tuple[int, socket.socket]]:
        for number, duplicate in listed(address):
            yield number, duplicate
            time.sleep(0.2)  # TVM's error of the connection shut down arrives meanwhile

    monkeypatch.setattr(connection, "_sockets_to", slowly)
    with pytest.raises(LowbitError, match="another client"):
        RpcBoard(LOOPBACK, silent, connect_timeout=0.3).open()


@pytest.mark.parametrize("tracked", [False, True], ids=["direct", "tracker"])
def test_tvms_own_server_serves_a_session(tracked: bool, tmp_path: Path) -> None:
    library = export(axpy(3), HOST, tmp_path / "axpy.so", find_linker(host_machine()))
    with ExitStack() as running:
        address = None
        if tracked:
            queue = Tracker(LOOPBACK, 29190, 29290, silent=True)
            running.callback(queue.terminate)
            address = (LOOPBACK, queue.port)
        server = Server(LOOPBACK, 29290, 29390, key="rpi4", tracker_addr=address, silent=True)
        running.callback(server.terminate)
        board = RpcBoard("localhost", queue.port if tracked else server.port, "rpi4", tracker=tracked)
        for _ in range(2):
            with board.open() as session:
                a, out = session.tensor(np.arange(LENGTH, dtype="int32")), session.tensor(np.zeros(LENGTH, "int32"))
                session.load(library)["axpy"](a, a, out)
                np.testing.assert_array_equal(out.numpy(), np.arange(LENGTH) * 4)
        if not tracked:
            with pytest.raises(LowbitError, match="key=client:other"):
                RpcBoard(LOOPBACK, server.port, "other").open()


def test_a_check_of_the_transport_that_fails_is_a_lost_board() -> None:
    """Whatever its words: only where it was raised tells it from a failure of the function that ran."""
    from tvm_lowbit.boards.remote_session import RemoteSession

    def raised(path: str, kind: str) -> BaseException:
        code = compile("raise type(kind, (RuntimeError,), {})('Check failed: odd words')", path, "exec")
        try:
            exec(code, {"kind": kind})
        except RuntimeError as error:
            return error
        raise AssertionError("nothing was raised")

    class Rpc:
        def cpu(self, index: int) -> None:
            return None

    session = RemoteSession("board", Rpc(), "look after it")
    session.close = lambda: None  # type: ignore[method-assign] - a board that does not answer
    lost = session.lost(raised("/project/src/runtime/rpc/rpc_endpoint.cc", "InternalError"), "calling")
    assert lost is not None and "a lost connection (Check failed: odd words)" in str(lost)
    assert session.lost(raised("/project/src/runtime/rpc/rpc_endpoint.cc", "RPCError"), "calling") is None
    assert session.lost(raised("/project/src/runtime/vm/vm.cc", "InternalError"), "calling") is None
