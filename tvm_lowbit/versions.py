"""The pair of TVM packages that work together, checked before TVM is imported (other pairs crash the process)."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from schedules.errors import LowbitError

TVM_VERSION = "0.27.0.post1"
TVM_FFI_VERSION = "0.1.14.post1"
PINS = {"apache-tvm": TVM_VERSION, "apache-tvm-ffi": TVM_FFI_VERSION}


def check_at_import() -> None:
    """`check_versions`; on the command line a failure is printed without a traceback, with exit code 2."""
    try:
        check_versions()
    except LowbitError as error:
        # While ``python -m tvm_lowbit`` imports the package, argv[0] is "-m".
        if Path(sys.argv[0]).name not in ("tvm-lowbit", "-m"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def check_versions() -> None:
    """Compare what is installed with `PINS`.

    Raises
    ------
    LowbitError
        If either package is missing or of another version.
    """
    command = "pip install " + " ".join(f"{name}=={version}" for name, version in PINS.items())
    for name, version in PINS.items():
        try:
            got = metadata.version(name)
        except metadata.PackageNotFoundError:
            got = "none"
        if got != version:
            raise LowbitError("installation", f"{name}=={version}", got, command)
