"""board_server.c compiled for this machine, as one would on a real board."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from board_samples import HOST, LENGTH, axpy, export
from emulator import require

from schedules.errors import LowbitError
from tvm_lowbit.boards import board_compiler
from tvm_lowbit.boards.rpc import RpcBoard
from tvm_lowbit.linker import find_linker, host_machine

MAGIC = 0xFF271


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Compile and start the server with the key ``rpi4``; yield its port."""
    require(None if shutil.which("cc") else "apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("board")
    source = Path(board_compiler.__file__).with_name("board_server.c")
    include = Path(tvm_ffi.__file__).parent / "include"
    program = folder / "board_server"
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", *warnings, "-I", str(include), "-o", str(program), str(source), "-ldl"], check=True
    )
    for package in (tvm_ffi, tvm):
        for library in (Path(package.__file__).parent / "lib").glob("libtvm_*.so"):
            (folder / library.name).symlink_to(library)
    command = [str(program), "--libs", str(folder), "--key", "rpi4", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield int(server.stdout.readline())
        server.stdin.close()
        assert server.wait(10) == 0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile ``2 a + b`` for this machine."""
    path = tmp_path_factory.mktemp("library") / "axpy.so"
    return export(axpy(2), HOST, path, find_linker(host_machine()))


def check(board: RpcBoard, library: Path) -> None:
    """Open a session and compare one result."""
    with board.open() as session:
        a, out = session.tensor(np.arange(LENGTH, dtype="int32")), session.tensor(np.zeros(LENGTH, "int32"))
        session.load(library)["axpy"](a, a, out)
        np.testing.assert_array_equal(out.numpy(), np.arange(LENGTH) * 3)


def test_clients_are_served_one_after_another(port: int, library: Path) -> None:
    board = RpcBoard("127.0.0.1", port, "rpi4")
    done = threading.Event()
    with board.open():
        waiting = threading.Thread(target=lambda: (check(board, library), done.set()))
        waiting.start()
        with pytest.raises(LowbitError, match="another client"):
            RpcBoard("127.0.0.1", port, "rpi4", connect_timeout=0.3).open()
    waiting.join(10)
    assert done.is_set()


def test_strangers_are_refused_and_do_no_harm(port: int, library: Path) -> None:
    with pytest.raises(LowbitError, match="key=client:rpi5"):
        RpcBoard("127.0.0.1", port, "rpi5").open()
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", struct.pack("<ii", MAGIC, 1 << 30), struct.pack("<ii", MAGIC, -1), b""):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(greeting)
    check(RpcBoard("127.0.0.1", port, "rpi4"), library)


def test_a_session_ends_at_its_timeout(port: int, library: Path) -> None:
    with (
        pytest.raises(LowbitError, match="lost connection"),
        RpcBoard("127.0.0.1", port, "rpi4", session_timeout=1).open() as session,
    ):
        while True:
            session.tensor(np.zeros(1, "float32")).numpy()
    check(RpcBoard("127.0.0.1", port, "rpi4"), library)


def test_files_stay_in_the_sessions_folder(port: int) -> None:
    with RpcBoard("127.0.0.1", port, "rpi4").open() as session:
        for name in ("../escape", "/tmp/escape"):
            with pytest.raises(Exception, match="without slashes"):
                session.rpc.upload(bytearray(b"x"), name)
        session.rpc.upload(bytearray(b"kept"), "file")
        assert bytes(session.rpc.download("file")) == b"kept"
