"""ResNet-18 between its layers: only codes, the ends on byte products, and joins in the convolutions' epilogues."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import tvm
from networks.calibrate import images
from networks.export import EXPORTERS
from tvm import relax

import tvm_lowbit
from relay_passes import dataflow
from relay_passes.ops import op_name
from schedules.cores import CORES
from schedules.techniques import TECHNIQUES
from tvm_lowbit.frontend import import_model
from tvm_lowbit.pipeline import Options, run_phases

KERNELS = tuple(TECHNIQUES)
ROW = networks.NETWORKS["resnet18"]


@pytest.fixture(scope="module", params=["w2a2", "w1a1"])
def program(request, tmp_path_factory):
    """The narrow network as a torch program."""
    made = networks.make("resnet18", request.param, width=ROW.small_width, size=ROW.small_size)
    path = tmp_path_factory.mktemp("between") / "model"
    return EXPORTERS["torch"].write(made, images(ROW.small_size, seed=7), path)


def test_no_float_tensor_between_low_bit_layers(program):
    """After fusion, TVM's last word: float tensors are the input, and what the last layer's sums become."""
    lowered = run_phases(import_model(program, None, 1), Options(CORES["cortex-a72"]))
    passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()]
    fused = tvm.transform.Sequential([*passes, relax.transform.FuseOps(), relax.transform.FuseTIR()])(lowered)
    bound = [b for b in dataflow.bindings(fused["main"]) if op_name(b.value) == "relax.call_tir"]
    kernels = [i for i, b in enumerate(bound) if str(b.value.args[0].name_hint).startswith(KERNELS)]
    assert len(kernels) == networks.layers("resnet18", "w2a2", width=ROW.small_width, size=ROW.small_size)
    between = [b.var for b in bound[kernels[0] : kernels[-1]]]
    assert not [dataflow.name_of(v) for v in between if "float" in str(v.ty.dtype)]
    # Eight residual joins, and not one kernel for them.
    assert sum(str(b.value.args[0].name_hint).startswith("requantize") for b in bound) <= 1


@pytest.mark.parametrize(("target", "technique"), [("rpi3", "smlal"), ("rpi4", "smlal"), ("rpi5", "sdot")])
def test_stem_and_classifier_multiply_bytes(program, target, technique):
    """Of 8 bits, on every board."""
    rows = [row for row in tvm_lowbit.inspect(program, target).low_bit if row.op.startswith("relax.")]
    ends = [row for row in rows if row.bits == "W8A8"]
    assert [row.technique for row in ends] == [technique] * 2
    assert ends == [rows[0], rows[-1]]


def test_composed_quantisers_change_no_result(program):
    """Probed codes keep every quantiser's own kernel; without them joins are composed. Logits are the same."""
    plain, probed = tvm_lowbit.build(program, "host"), tvm_lowbit.build(program, "host", probe=True)
    x = images(ROW.small_size, seed=3).numpy()
    (a,), (b,) = (list(artifact.run(x).outputs.values()) for artifact in (plain, probed))
    np.testing.assert_array_equal(a, b)
    assert len(np.unique(a)) > 10
