"""A loaded library on some board: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from schedules.errors import LowbitError
from tvm_lowbit.boards.session import Session
from tvm_lowbit.manifest import Manifest, TensorRow
from tvm_lowbit.quiet import without_scope_warnings
from tvm_lowbit.references import makers
from tvm_lowbit.result import Explanation, Result

Array = npt.NDArray[Any]


class Program:
    """One compiled model in one session. Arguments are checked before anything runs.

    Parameters
    ----------
    library : Any
        The library as the session loaded it, or an executable of this process.
    session : Session
        Where it runs.
    manifest : Manifest
        What it takes and gives.
    """

    def __init__(self, library: Any, session: Session, manifest: Manifest) -> None:
        self._session, self._manifest = session, manifest
        with session.guarded("starting the model"), without_scope_warnings():
            self._machine = relax.VirtualMachine(library, session.device)

    def __call__(self, inputs: Any, each: Callable[[int, int], None] = lambda done, total: None) -> Result:
        """Run on any multiple of the compiled batch.

        Parameters
        ----------
        inputs : array or mapping of str to array
            ``(N, ...)`` for each input; a bare array where there is one.
        each : callable, optional
            Called with items done and items in all, for progress displays.

        Raises
        ------
        LowbitError
            For names, shapes or types that are not the model's, NaN or infinity, or a board that is lost.
        """
        arrays = self._checked(inputs)
        batch, total = self._manifest.batch, len(arrays[0])
        runs = []
        for start in range(0, total, batch):
            runs.append(self._run([a[start : start + batch] for a in arrays]))
            each(start + batch, total)
        return self._named([np.concatenate(parts) for parts in zip(*runs, strict=True)])

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        with self._session.guarded("running the model"):
            # Over RPC a tuple cannot be unpacked; the stateful calls work on every board.
            self._machine.set_input("main", *[self._session.tensor(np.ascontiguousarray(a)) for a in arrays])
            self._machine.invoke_stateful("main")
            outputs = self._machine.get_outputs("main")
            several = isinstance(outputs, list | tuple) or not hasattr(outputs, "numpy")
            return [o.numpy() for o in outputs] if several else [outputs.numpy()]

    def _checked(self, inputs: Any) -> list[Array]:
        rows, made = self._manifest.inputs, makers(self._manifest)
        names = ", ".join(r.name for r in rows)
        if not isinstance(inputs, dict):
            if len(rows) - len(made) != 1:
                raise LowbitError("run", f"a dict with {names}", type(inputs).__name__)
            inputs = {rows[0].name: inputs}
        if set(inputs) | set(made) != {row.name for row in rows}:
            got = ", ".join(map(str, inputs)) or "nothing"
            raise LowbitError("run", f"inputs named {names}", got)
        arrays: list[Array] = []
        for row in rows:
            array = np.asarray(inputs[row.name]) if row.name in inputs else made[row.name](arrays[0])
            arrays.append(self._fits(row, array))
        if len({len(array) for array in arrays}) > 1:
            raise LowbitError("run", "as many items in every input", ", ".join(str(len(a)) for a in arrays))
        return arrays

    def _fits(self, row: TensorRow, array: Array) -> Array:
        where, shape = f"input {row.name}", ("N", *row.shape[1:])
        if str(array.dtype) != row.dtype:
            hint = f"convert it: x.astype('{row.dtype}')"
            raise LowbitError(where, f"dtype {row.dtype}", str(array.dtype), hint)
        batch = self._manifest.batch
        fits = array.shape[1:] == row.shape[1:] and len(array) > 0 and len(array) % batch == 0
        if array.ndim != len(row.shape) or not fits:
            multiple = f", N a multiple of {batch}" if batch > 1 else ""
            raise LowbitError(where, f"shape ({', '.join(map(str, shape))}){multiple}", str(array.shape))
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise LowbitError(where, "finite numbers", "NaN or infinity")
        return array

    def _named(self, arrays: list[Array]) -> Result:
        m = self._manifest
        outputs = {row.name: array for row, array in zip(m.outputs, arrays, strict=False)}
        rest = arrays[len(m.outputs) :]
        explanations = {}
        for row in m.explanations:
            layers: dict[str, dict[str, Array]] = {}
            for result, array in zip(row.results, rest, strict=False):
                layers.setdefault(result.layer, {})[result.field] = array
            explanations[row.name] = Explanation(row, layers.pop("", {}), layers)
            rest = rest[len(row.results) :]
        return Result(outputs, explanations, dict(zip(m.probes, rest, strict=True)))
