"""What every board offers: a session that loads libraries and holds tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from schedules.errors import LowbitError

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self


class Session(ABC):
    """A board in use; closed at the end of a ``with`` block.

    Parameters
    ----------
    name : str
        The board, as errors name it.
    device : Any
        The board's CPU, as a TVM device.
    """

    def __init__(self, name: str, device: Any) -> None:
        self.name = name
        self.device = device

    @abstractmethod
    def load(self, path: Path) -> Any:
        """Load a shared library on the board, uploading it when the board is elsewhere.

        Parameters
        ----------
        path : Path
            A library linked for the board. It may change or go afterwards; loading it again loads it anew.

        Returns
        -------
        Any
            The TVM module, whose functions run on the board.
        """

    @abstractmethod
    def function(self, name: str) -> Any:
        """Look up a global TVM function on the board.

        Parameters
        ----------
        name : str
            For example ``runtime.config_threadpool``.

        Returns
        -------
        Any
            The function.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the board back; what was loaded is not to be used any more. May be called twice."""

    def lost(self, error: BaseException, doing: str) -> LowbitError | None:
        """Tell the loss of the board from other errors, and end the session if it is one.

        Parameters
        ----------
        error : BaseException
            What was raised.
        doing : str
            What was being done.

        Returns
        -------
        LowbitError or None
            The error for the user; None when the board is still there.
        """
        return None

    @contextmanager
    def guarded(self, doing: str) -> Iterator[None]:
        """Turn the loss of the board inside a block, as in a call of a loaded function, into a `LowbitError`.

        Parameters
        ----------
        doing : str
            What is being done, for the error.
        """
        try:
            yield
        except Exception as error:
            told = self.lost(error, doing)
            if told is None:
                raise
            raise told from error

    def tensor(self, array: np.ndarray[Any, Any]) -> Any:
        """Copy an array to the board.

        Parameters
        ----------
        array : np.ndarray
            The values.

        Returns
        -------
        Any
            A TVM tensor on `device`.
        """
        import tvm

        with self.guarded("copying a tensor to the board"):
            return tvm.runtime.tensor(array, self.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told = self.lost(error, "running") if error is not None else None
        self.close()
        if told is not None:
            raise told from error


class Board(Protocol):
    """Something that opens sessions."""

    @property
    def name(self) -> str:
        """Return what messages call the board."""

    @property
    def machine(self) -> str | None:
        """Return the architecture its libraries must be for, None if only the board knows."""

    def missing(self) -> str | None:
        """Return what has to be installed here before `open`, and how; None if nothing."""

    def open(self) -> Session:
        """Take the board into use."""
