"""Whole networks, narrow: layers low-bit, codes those of the graph they were exported as."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import emulator
import networks
import onnx
import pytest
from networks.calibrate import images
from networks.export import EXPORTERS
from networks.quantise import SCHEMES
from stages import assert_outputs, check, of_onnx, of_torch

import tvm_lowbit

MULTIPLYING = ("relax.nn.conv2d", "relax.matmul")
# Every network in two schemes by two exporters, every exporter with several of both: about 90 seconds of processor
# time. `python -m networks.compile --small` builds the whole product.
CASES = [
    ("resnet18", "w2a2", "qonnx"),
    ("resnet18", "w1a1", "torch"),
    ("resnet50", "w1a1", "qonnx"),
    ("resnet50", "w4a4", "qcdq"),
    ("vgg16_ssd", "w1a1", "qcdq"),
    ("vgg16_ssd", "w4a4", "torch"),
    ("mobilenet_v2", "w1a2", "qonnx"),
    ("mobilenet_v2", "mixed", "torch"),
    ("yolov5", "w1a2", "qcdq"),
    ("yolov5", "w1a1", "torch"),
]


def written(network: str, scheme: str, exporter: str, folder: Path) -> tuple[Any, Any, Any]:
    """The narrow network, what the exporter made of it, and an image."""
    missing = EXPORTERS[exporter].file and importlib.util.find_spec("brevitas") is None
    emulator.require("Brevitas: pip install '.[networks]'" if missing else None)
    row = networks.NETWORKS[network]
    made = networks.make(network, scheme, width=row.small_width, size=row.small_size)
    x = images(row.small_size, seed=7)
    return made, EXPORTERS[exporter].write(made, x, folder / "model.onnx"), x.numpy()


@pytest.mark.parametrize(("network", "scheme", "exporter"), CASES)
def test_codes(network: str, scheme: str, exporter: str, tmp_path: Path) -> None:
    """Every quantised layer is low-bit, and codes differ at most where float32's rounding decides, see `stages.check`.

    No code of resnet18-w1a1-torch differs. With steps that are round shares of the largest value, 4 of 32 did behind
    its global average: means of four codes of 8 bits fall on boundaries between codes exactly, in float32 4.4e-6 of a
    step beside them where the largest value, 127 steps, has 7.6e-6 from one float32 to the next. So `Quantiser` chooses
    other steps.
    """
    made, model, x = written(network, scheme, exporter, tmp_path)
    artifact = tvm_lowbit.build(model, "host", probe=True)
    low = [row for row in artifact.report.low_bit if row.op in MULTIPLYING]
    row = networks.NETWORKS[network]
    assert len(low) == networks.layers(network, scheme, width=row.small_width, size=row.small_size), artifact.report
    result = artifact.run(x)
    stages, outputs = of_torch(made, x, result) if exporter == "torch" else of_onnx(onnx.load(str(model)), x, result)
    check(stages)
    assert_outputs(list(result.outputs.values()), outputs)


def test_cases_cover_the_tables() -> None:
    """Every network in two schemes and by two exporters; every exporter with three networks and two schemes."""
    for name in networks.NETWORKS:
        mine = [case for case in CASES if case[0] == name]
        assert len({scheme for _, scheme, _ in mine}) >= 2
        assert len({exporter for *_, exporter in mine}) >= 2
    for name in EXPORTERS:
        mine = [case for case in CASES if case[2] == name]
        assert len({network for network, *_ in mine}) >= 3
        assert len({scheme for _, scheme, _ in mine}) >= 2
    assert {scheme for _, scheme, _ in CASES} == set(SCHEMES)
