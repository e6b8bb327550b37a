"""Fake-quantising modules of torch and torchao as torch.export can trace them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from schedules.errors import LowbitError

# Where the classes below may be defined; torchao took torch's over under the same names.
_HOMES = ("torch.ao.quantization.", "torchao.quantization.")


class _Frozen(nn.Module):  # type: ignore[misc]
    """One fake-quantising operator with constant parameters."""

    def __init__(self, module: Any, learnable: bool) -> None:
        super().__init__()
        scale, zero = module.scale.detach(), module.zero_point.detach()
        if learnable:
            # What the module's own forward does to its parameters first.
            scale = scale.clamp(min=module.eps.item())
            if module.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric):
                zero = torch.zeros_like(zero)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero)
        limits = module if learnable else module.activation_post_process
        self.limits = int(limits.quant_min), int(limits.quant_max)
        per_channel = module.qscheme in (
            torch.per_channel_symmetric,
            torch.per_channel_affine,
            torch.per_channel_affine_float_qparams,
        )
        self.axis = int(module.ch_axis) if per_channel else None
        self.learnable = learnable

    def forward(self, x: Any) -> Any:
        """Fake-quantise."""
        along = () if self.axis is None else (self.axis,)
        if not self.learnable:
            per_channel, per_tensor = torch.fake_quantize_per_channel_affine, torch.fake_quantize_per_tensor_affine
            operator = per_tensor if self.axis is None else per_channel
            return operator(x, self.scale, self.zero_point, *along, *self.limits)
        per_channel = torch._fake_quantize_learnable_per_channel_affine
        per_tensor = torch._fake_quantize_learnable_per_tensor_affine
        operator = per_tensor if self.axis is None else per_channel
        return operator(x, self.scale, self.zero_point, *along, *self.limits, 1.0)


def _class_of(module: Any) -> str:
    """``FakeQuantize`` or ``_LearnableFakeQuantize`` if the module is one, else the empty string."""
    for base in type(module).__mro__:
        if base.__name__ in ("FakeQuantize", "_LearnableFakeQuantize") and base.__module__.startswith(_HOMES):
            return str(base.__name__)
    return ""


def _replacement(name: str, module: Any, learnable: bool) -> Any:
    observes = module.static_enabled if learnable else module.observer_enabled
    if bool(observes[0]):
        raise LowbitError(
            f"quantiser {name or type(module).__name__}",
            "a fixed scale",
            "an observer that is on and changes it with every input",
            "module.apply(torch.ao.quantization.disable_observer), or enable_param_learning() of learnable ones",
        )
    return _Frozen(module, learnable) if bool(module.fake_quant_enabled[0]) else nn.Identity()


def frozen(module: Any) -> Any:
    """The module with fake-quantising modules replaced by the operators they call; itself if it has none.

    Raises
    ------
    LowbitError
        If one of their observers is on.
    """
    memo: dict[int, Any] = {}
    for name, child in module.named_modules():
        kind = _class_of(child)
        if kind:
            memo[id(child)] = _replacement(name, child, kind == "_LearnableFakeQuantize")
    if not memo:
        return module
    if id(module) in memo:
        return memo[id(module)]
    # Tensors are shared with the user's module, not copied.
    memo.update({id(t): t for tensors in (module.parameters(), module.buffers()) for t in tensors})
    return copy.deepcopy(module, memo)
