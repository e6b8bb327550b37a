"""``CUSTOM``: the modules of operators outside ONNX; each names their ``DOMAINS`` and has their ``CONVERTERS``."""

from __future__ import annotations

from tvm_lowbit.from_onnx import finn, qonnx

CUSTOM = (qonnx, finn)
