"""tvm_lowbit: 1 to 8 bit networks compiled for Arm boards, each prediction with its exact explanation."""

from tvm_lowbit.versions import check_at_import

check_at_import()

from relay_passes.attribution.methods import DeepLift, Gradient, GradientXInput  # noqa: E402 - TVM only after the check
from schedules.errors import LowbitError  # noqa: E402
from tvm_lowbit.artifact import Artifact, load  # noqa: E402
from tvm_lowbit.build import build, inspect  # noqa: E402
from tvm_lowbit.tuning.tune import tune  # noqa: E402

__all__ = ["Artifact", "DeepLift", "Gradient", "GradientXInput", "LowbitError", "build", "inspect", "load", "tune"]
