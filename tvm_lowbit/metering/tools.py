"""The programs that metering needs: QEMU, the runner on the emulated board, and the plugin that counts."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from schedules.errors import LowbitError
from tvm_lowbit.boards.aarch64_runtime import install_command
from tvm_lowbit.boards.board_compiler import can_compile, find_compiler, include_folder
from tvm_lowbit.boards.cache import cache_root, published
from tvm_lowbit.boards.emulated import QEMU as PLAIN_QEMU
from tvm_lowbit.boards.emulated import absent

# The emulator that is linked dynamically loads plugins; the static one does not.
PLUGIN_QEMU = "qemu-aarch64"
# Set to anything, makes metering do without plugins, by QEMU's log.
NO_PLUGIN = "TVM_LOWBIT_NO_PLUGIN"
_HERE = Path(__file__).parent
_RUNNER = ("runner.c", "markers.h", "../boards/board_runtime.h")
_PLUGIN = ("count_blocks.c", "markers.h", "qemu_plugin.h")
_HOST_COMPILERS = (("cc",), ("gcc",), ("clang",))
_WARNINGS = ("-Wall", "-Wno-unused-function")


def missing() -> str | None:
    """What has to be installed first, and the command that does it.

    Returns
    -------
    str or None
        None if all is there.
    """
    there = {
        f"{PLUGIN_QEMU} or {PLAIN_QEMU}": bool(shutil.which(PLUGIN_QEMU) or shutil.which(PLAIN_QEMU)),
        "a C compiler for aarch64": can_compile(),
    }
    return absent(there)


def require_tools() -> None:
    """Raise ``LowbitError`` with the command that installs what is missing, if anything is."""
    lacking = missing()
    if lacking is not None:
        raise LowbitError("estimate", "an emulator that counts instructions", lacking, install_command())


def _compiled(name: str, sources: Sequence[str], command: Sequence[str], flags: Sequence[str]) -> Path:
    """A program out of the cache, compiled if it is not there: once per source, compiler, flags and tvm-ffi version."""
    digest = hashlib.sha256(repr((list(command), list(flags), importlib.metadata.version("apache-tvm-ffi"))).encode())
    for source in sources:
        digest.update((_HERE / source).read_bytes())
    built = cache_root() / "metering" / digest.hexdigest()[:16] / name
    if built.is_file():
        return built
    with published(built.parent) as draft:
        run = [*command, "-std=gnu11", "-O2", *_WARNINGS, "-o", str(draft / name), str(_HERE / sources[0]), *flags]
        done = subprocess.run(run, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            got = f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-2000:]}"
            raise LowbitError("metering", f"{sources[0]} compiled", got, install_command())
    return built


@functools.cache
def runner() -> Path:
    """The program that calls libraries on the emulated board, compiled for aarch64.

    Raises
    ------
    LowbitError
        Without a compiler, or when it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise LowbitError("metering", "a C compiler for aarch64", "none installed", install_command())
    includes = ("-I", str(include_folder()), "-I", str(_HERE.parent / "boards"))
    return _compiled("runner", _RUNNER, compiler[1], (*includes, "-ldl"))


def _host_compiler() -> tuple[str, ...] | None:
    for command in _HOST_COMPILERS:
        if shutil.which(command[0]):
            return command
    return (sys.executable, "-m", "ziglang", "cc") if importlib.util.find_spec("ziglang") else None


def find_plugin() -> Path | None:
    """The plugin that counts blocks, for this machine's QEMU; None where QEMU takes none or nothing compiles it."""
    qemu, compiler = shutil.which(PLUGIN_QEMU), _host_compiler()
    return None if os.environ.get(NO_PLUGIN) or qemu is None or compiler is None else _plugin_for(qemu, compiler)


@functools.cache
def _plugin_for(qemu: str, compiler: tuple[str, ...]) -> Path | None:
    told = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    helped = subprocess.run([qemu, "-h"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.", told)
    if version is None or "-plugin" not in helped:
        return None
    # The interface was raised to version 2 in QEMU 9; what count_blocks.c uses of it is the same.
    interface = f"-DPLUGIN_VERSION={1 if int(version[1]) < 9 else 2}"
    return _compiled("count_blocks.so", _PLUGIN, compiler, ("-shared", "-fPIC", "-fvisibility=hidden", interface))


def plain_qemu() -> str:
    """The emulator to run without plugins, whichever there is."""
    return PLAIN_QEMU if shutil.which(PLAIN_QEMU) else PLUGIN_QEMU
