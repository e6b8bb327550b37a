"""TVM's runtime for aarch64, out of the wheels that PyPI has for exactly the versions installed here.

``python -m tvm_lowbit.boards.aarch64_runtime`` fetches it and compiles the board server; nothing else ever does.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from schedules.errors import LowbitError
from tvm_lowbit.boards.cache import cache_root, published

# Package, and the libraries of its wheel that a board needs. The compiler (240 MB) stays behind.
WHEELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("apache-tvm-ffi", ("tvm_ffi/lib/libtvm_ffi.so",)),
    ("apache-tvm", ("tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_runtime_extra.so")),
)
# The Python version only chooses among tvm-ffi's wheels; the libraries kept do not depend on it.
_PIP = (
    *("-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
    *("--platform", "manylinux_2_28_aarch64", "--python-version", "3.11"),
)


def install_command() -> str:
    """Return the command that brings everything the emulated board needs.

    Returns
    -------
    str
        To be pasted into a shell.
    """
    script = Path(__file__).with_name("install_emulator.sh")
    try:
        return f"sh {script.relative_to(Path.cwd())}"
    except ValueError:
        return f"sh {script}"


def _folder() -> Path:
    versions = "-".join(importlib.metadata.version(package) for package, _ in WHEELS)
    return cache_root() / "aarch64-runtime" / versions


def has_runtime() -> bool:
    """Tell whether the runtime was fetched.

    Returns
    -------
    bool
        Whether `runtime_root` would return.
    """
    return all((_folder() / Path(name).name).is_file() for _, names in WHEELS for name in names)


def runtime_root() -> Path:
    """Return the folder of the aarch64 libraries; it is never fetched here.

    Returns
    -------
    Path
        Holds libtvm_ffi.so, libtvm_runtime.so and libtvm_runtime_extra.so.

    Raises
    ------
    LowbitError
        When it was not fetched yet.
    """
    if not has_runtime():
        raise LowbitError("aarch64 runtime", f"TVM's libraries in {_folder()}", "none there", install_command())
    return _folder()


def _download(package: str, folder: Path) -> Path:
    requirement = f"{package}=={importlib.metadata.version(package)}"
    command = [sys.executable, *_PIP, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(folder.glob(f"{package.replace('-', '_')}-*.whl"))
    if done.returncode != 0 or not wheels:
        raise LowbitError(
            f"fetching {requirement}",
            "its aarch64 wheel from the package index",
            f"exit code {done.returncode}: {done.stderr.strip()[-1000:]}",
            "is the package index reachable, and does this Python have pip?",
        )
    return wheels[0]


def fetch_runtime() -> Path:
    """Fetch the runtime if it is not there yet.

    Returns
    -------
    Path
        As `runtime_root`.

    Raises
    ------
    LowbitError
        When the wheels cannot be had.
    """
    if not has_runtime():
        with published(_folder()) as draft, tempfile.TemporaryDirectory() as downloads:
            for package, names in WHEELS:
                with zipfile.ZipFile(_download(package, Path(downloads))) as wheel:
                    for name in names:
                        (draft / Path(name).name).write_bytes(wheel.read(name))
    return runtime_root()


def main() -> int:
    """Fetch the runtime and compile the server, saying where they are.

    Returns
    -------
    int
        The exit code.
    """
    from tvm_lowbit.boards.board_compiler import compile_server

    try:
        print(f"runtime: {fetch_runtime()}")
        print(f"server:  {compile_server()}")
    except LowbitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
