"""tvm_lowbit: 1 to 8 bit networks compiled for Arm boards, each prediction with its exact explanation."""

from tvm_lowbit.versions import check_at_import

check_at_import()

from relay_passes.attribution.methods import (  # noqa: E402 - TVM only after the check
    Conductance,
    DeepLift,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    NeuronIntegratedGradients,
    SemiringEntropy,
    SemiringPath,
    SmoothGrad,
)
from relay_passes.attribution.similarity import Similarity  # noqa: E402
from relay_passes.attribution.targets import Difference, Element, MinusMean  # noqa: E402
from schedules.errors import LowbitError  # noqa: E402
from tvm_lowbit.artifact import Artifact, load  # noqa: E402
from tvm_lowbit.build import build, inspect  # noqa: E402
from tvm_lowbit.tuning.tune import tune  # noqa: E402

__all__ = [
    "Artifact",
    "Conductance",
    "DeepLift",
    "Difference",
    "Element",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "LowbitError",
    "MinusMean",
    "NeuronIntegratedGradients",
    "SemiringEntropy",
    "SemiringPath",
    "Similarity",
    "SmoothGrad",
    "build",
    "inspect",
    "load",
    "tune",
]
