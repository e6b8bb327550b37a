"""Compiling the board's RPC server, once per source, compiler flags and tvm-ffi version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from schedules.errors import LowbitError
from tvm_lowbit.boards.cache import cache_root, published

SOURCES = ("board_server.c", "board_runtime.h")
FLAGS = ("-std=gnu11", "-O2", "-s")
# Name, what must be there (program, or "module:" and its name), command. The oldest glibc is that of the wheels.
COMPILERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("gcc", "aarch64-linux-gnu-gcc", ("aarch64-linux-gnu-gcc",)),
    ("zig", "module:ziglang", (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28")),
)


def include_folder() -> Path:
    """The folder of the tvm-ffi headers.

    Raises
    ------
    LowbitError
        If apache-tvm-ffi is not installed.
    """
    # Found without importing tvm_ffi, which would import torch where that is installed.
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise LowbitError(
            "board server", "the headers of apache-tvm-ffi", "no package tvm_ffi", "pip install tvm-lowbit"
        )
    return Path(spec.origin).parent / "include"


def _server() -> Path:
    digest = hashlib.sha256(repr((FLAGS, importlib.metadata.version("apache-tvm-ffi"))).encode())
    for name in SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return cache_root() / "board-server" / digest.hexdigest()[:16] / "board_server"


def find_compiler() -> tuple[str, tuple[str, ...]] | None:
    """Choose a C compiler for aarch64 Linux.

    Returns
    -------
    tuple[str, tuple[str, ...]] or None
        Its name and command; None when there is none.
    """
    for name, needs, command in COMPILERS:
        module = needs.removeprefix("module:")
        if (importlib.util.find_spec(module) if module != needs else shutil.which(needs)) is not None:
            return name, command
    return None


def can_compile() -> bool:
    """Tell whether `compile_server` has a chance.

    Returns
    -------
    bool
        Whether the server is compiled already or there is a compiler.
    """
    return _server().is_file() or find_compiler() is not None


def compile_server() -> Path:
    """Compile the server for aarch64 unless it is cached.

    Returns
    -------
    Path
        The program.

    Raises
    ------
    LowbitError
        Without a compiler, or when it fails.
    """
    server = _server()
    if server.is_file():
        return server
    hint = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross, or pip install 'tvm-lowbit[cross]'"
    compiler = find_compiler()
    if compiler is None:
        raise LowbitError("board server", "a C compiler for aarch64", "none installed", hint)
    name, command = compiler
    source = Path(__file__).with_name(SOURCES[0])
    with published(server.parent) as draft:
        run = [*command, *FLAGS, "-I", str(include_folder()), "-o", str(draft / server.name), str(source), "-ldl"]
        done = subprocess.run(run, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            got = f"{name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}"
            raise LowbitError("board server", f"{source.name} compiled for aarch64", got, hint)
    return server
