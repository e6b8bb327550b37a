"""``EXPORTERS``: what writes a network so that it can be built."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 13


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of constants that tracing fixes, and print; fixed constants are what is wanted."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _qonnx(network: nn.Module, example: Tensor, path: Path) -> Any:
    from brevitas.export import export_qonnx

    from networks.to_brevitas import to_brevitas

    with _quiet(), torch.no_grad():
        export_qonnx(to_brevitas(network), args=example, export_path=str(path), dynamo=False, opset_version=OPSET)
    return path


def _qcdq(network: nn.Module, example: Tensor, path: Path) -> Any:
    from brevitas.export import export_onnx_qcdq

    from networks.to_brevitas import to_brevitas

    with _quiet(), torch.no_grad():
        plain = to_brevitas(network, binary=False)
        export_onnx_qcdq(plain, args=example, export_path=str(path), dynamo=False, opset_version=OPSET)
    return path


def _torch(network: nn.Module, example: Tensor, path: Path) -> Any:
    with _quiet():
        return torch.export.export(network.eval(), (example,))


@dataclass(frozen=True)
class Exporter:
    """One row: ``write(network, example, path)`` returns what `tvm_lowbit.build` takes.

    That is the path, or a program if the row makes no ``file``.
    """

    name: str
    help: str
    file: bool
    write: Callable[[nn.Module, Tensor, Path], Any]


_ROWS = (
    Exporter("qonnx", "Brevitas to QONNX: Quant and BipolarQuant", True, _qonnx),
    Exporter("qcdq", "Brevitas to QuantizeLinear, Clip, DequantizeLinear; it has no bipolar codes", True, _qcdq),
    Exporter("torch", "torch.export of fake_quantize_* operators", False, _torch),
)
EXPORTERS: Mapping[str, Exporter] = MappingProxyType({row.name: row for row in _ROWS})
