"""``CUSTOM``: the modules of operators outside ONNX; each names their ``DOMAINS`` and has their ``CONVERTERS``."""

from __future__ import annotations

from tvm_lowbit import finn_import, qonnx_import

CUSTOM = (qonnx_import, finn_import)
