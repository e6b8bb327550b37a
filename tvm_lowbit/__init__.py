"""tvm_lowbit: 1 to 8 bit networks compiled for Arm boards, each prediction with its exact explanation."""

from tvm_lowbit.versions import check_at_import

check_at_import()

from relay_passes.attribution.methods import (  # noqa: E402 - TVM only after the check
    GAM,
    Conductance,
    DeepLift,
    GradCam,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    LayerCam,
    NeuronImportance,
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
    "GAM",
    "Artifact",
    "Conductance",
    "DeepLift",
    "Difference",
    "Element",
    "GradCam",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "LayerCam",
    "LowbitError",
    "MinusMean",
    "NeuronImportance",
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
