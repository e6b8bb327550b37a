"""Boards that run compiled models: this process, a real board over RPC, an emulated one.

Names are loaded when first used: finding out what is missing must not take the seconds that importing TVM does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_lowbit.boards.emulated import EmulatedBoard
    from tvm_lowbit.boards.local import LocalBoard
    from tvm_lowbit.boards.rpc import RpcBoard
    from tvm_lowbit.boards.session import Board, Session

__all__ = ["Board", "EmulatedBoard", "LocalBoard", "RpcBoard", "Session"]

_HOMES = {
    "Board": "session",
    "Session": "session",
    "LocalBoard": "local",
    "RpcBoard": "rpc",
    "EmulatedBoard": "emulated",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
