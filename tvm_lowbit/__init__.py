"""tvm_lowbit: 1 to 8 bit networks compiled for Arm boards, each prediction with its exact explanation."""

from tvm_lowbit.versions import check_at_import

check_at_import()

from relay_passes.attribution.methods import (  # noqa: E402 - TVM only after the check
    DeepLift,
    Gradient,
    GradientXInput,
    SemiringEntropy,
    SemiringPath,
)
from relay_passes.attribution.targets import Difference, Element, MinusMean  # noqa: E402
from schedules.errors import LowbitError  # noqa: E402
from tvm_lowbit.artifact import Artifact, load  # noqa: E402
from tvm_lowbit.build import build, inspect  # noqa: E402
from tvm_lowbit.tuning.tune import tune  # noqa: E402

__all__ = [
    "Artifact",
    "DeepLift",
    "Difference",
    "Element",
    "Gradient",
    "GradientXInput",
    "LowbitError",
    "MinusMean",
    "SemiringEntropy",
    "SemiringPath",
    "build",
    "inspect",
    "load",
    "tune",
]
