"""A session on a board that is reached over TVM's RPC."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from schedules.errors import LowbitError
from tvm_lowbit.boards.session import Session

# How TVM's client words a connection that is no more (rpc_endpoint.cc, rpc_socket_impl.cc). A failure of the function
# that ran on the board has other words, and is the caller's.
LOST = ("SockChannel::", "Channel closes before", "connection was previously closed", "code == RPCCode::k")


def _in_transport(error: BaseException) -> bool:
    """Whether a check of TVM's own transport failed: a stream cut in the middle of a message has many wordings."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = "" if frame is None else frame.tb_frame.f_code.co_filename
    return type(error).__name__ == "InternalError" and "/runtime/rpc/" in place


class RemoteSession(Session):
    """Libraries on a board at the other end of a connection.

    Parameters
    ----------
    name : str
        The board, as errors name it.
    rpc : Any
        TVM's RPC session.
    hint : str
        What to try when the board is lost.
    """

    def __init__(self, name: str, rpc: Any, hint: str) -> None:
        super().__init__(name, rpc.cpu(0))
        self.rpc = rpc
        self._hint = hint
        self._count = itertools.count()
        self._closed = False

    def lost(self, error: BaseException, doing: str) -> LowbitError | None:
        """Recognise a broken connection and a call that took too long; see `Session.lost`.

        Parameters
        ----------
        error : BaseException
            What was raised.
        doing : str
            What was being done.

        Returns
        -------
        LowbitError or None
            None when the board is still there.
        """
        message = str(error)
        if isinstance(error, LowbitError) or not (any(words in message for words in LOST) or _in_transport(error)):
            return None
        if self._closed:
            return LowbitError(f"board {self.name}", f"an open session while {doing}", "a closed one")
        self.close()  # an answer that comes late would be taken for the answer to the next call
        if "Resource temporarily unavailable" in message:
            got = "no answer within the call timeout"
        else:
            got = f"a lost connection ({message.strip().splitlines()[-1]})"
        return LowbitError(f"board {self.name}", f"an answer while {doing}", got, self._hint)

    def load(self, path: Path) -> Any:
        """Upload a library and load it on the board; see `Session.load`.

        Parameters
        ----------
        path : Path
            A library linked for the board.

        Returns
        -------
        Any
            The remote TVM module.

        Raises
        ------
        LowbitError
            When the board is lost or refuses the library.
        """
        # The loader knows a library by its path: a second version at the same path would be the first one again.
        name = f"{next(self._count)}-{Path(path).name}"
        doing = f"loading {Path(path).name}"
        try:
            with self.guarded(doing):
                self.rpc.upload(bytearray(Path(path).read_bytes()), name)
                module = self.rpc.load_module(name)
                self.rpc.remove(name)  # stays mapped; a board's /tmp is often its memory
                return module
        except (OSError, RuntimeError, ValueError) as error:
            hint = "is the library linked for the board, and not for this machine?"
            raise LowbitError(f"board {self.name}", doing, str(error), hint) from error

    def function(self, name: str) -> Any:
        """Look up a global function on the board; see `Session.function`.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        Any
            The remote function.
        """
        with self.guarded(f"looking up {name}"):
            return self.rpc.get_function(name)

    def close(self) -> None:
        """Close the connection, also while modules and tensors still refer to it."""
        if not self._closed:
            self._closed = True
            # Not a function of the board: the client answers to this name itself.
            self.rpc.get_function("CloseRPCConnection")()
