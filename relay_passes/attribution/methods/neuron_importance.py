"""``NeuronImportance``: how much each channel of a layer matters to a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.carriers.base import Real
from relay_passes.attribution.methods.base import (
    Method,
    broadcast_reference,
    check_linear,
    checked_choice,
    checked_layers,
    checked_reference,
    described_reference,
)
from relay_passes.attribution.model import Forward, Model, Part, chosen_output
from relay_passes.attribution.slopes import GRADIENT, SECANT, Slope
from relay_passes.attribution.targets import Target
from relay_passes.ops import shape_of

SLOPES: dict[str, Slope] = {"gradient": GRADIENT, "deeplift": SECANT}


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronImportance(Method):
    """The class-wise importance of channels in NIWT (Selvaraju et al., 1808.02861), not rectified.

    The mean over pixels of the target's gradient at a channel (section 3.1), ``importance`` of shape (N, channels); or,
    by DeepLIFT, of its multiplier, which quantisers do not break.

    Attributes
    ----------
    layer : str or sequence of str
        Names of layers.
    by : str
        ``"gradient"`` (the default, the paper's; straight through at quantisers) or ``"deeplift"`` (Rescale).
    reference : float or array
        Of DeepLIFT; see there.
    target, name
        See `Method`.
    """

    method: ClassVar[str] = "neuron_importance"
    any_target: ClassVar[bool] = True

    layer: str | Sequence[str] = field(kw_only=False)
    by: str = "gradient"
    reference: float | npt.NDArray[Any] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", checked_layers("NeuronImportance layer", self.layer))
        checked_choice("NeuronImportance by", self.by, SLOPES)
        checked_reference("NeuronImportance", self.reference)
        if self.by == "deeplift":
            check_linear('NeuronImportance(by="deeplift")', self.targets)

    def settings(self) -> dict[str, Any]:
        """Layers, what stands for slopes, and its reference."""
        reference = {"reference": described_reference(self.reference)} if self.by == "deeplift" else {}
        return {"layer": list(self.layer), "by": self.by, **reference}

    def prepare(self, model: Model) -> dict[int, Any]:
        """The reference run, if there is one."""
        for target in self.targets:
            output = chosen_output(target, model.outputs, model.output_names)
            model.check_rules([target], list(model.layers.reaching(tuple(self.layer), output).values()))
        if self.by == "gradient":
            return {}
        inputs = [broadcast_reference("NeuronImportance", self.reference, shape_of(param)) for param in model.params]
        return model.reference_run(inputs, self.targets)

    def explain(self, forward: Forward, prepared: dict[int, Any]) -> list[Part]:
        """The target, and each layer's importances."""
        references = forward.references(prepared)
        context = forward.context(self.key, SLOPES[self.by], Real(), references)

        def explained(target: Target) -> list[Part]:
            output = forward.output(target)
            choice = target.choose(context.emit, output)
            cuts = forward.named(tuple(self.layer), output)
            found = forward.walk(context, output, target.gradient(context.emit, output, choice), list(cuts.values()))
            parts = [Part("target", choice)]
            for name, cut in cuts.items():
                axes = list(range(2, len(shape_of(cut))))
                mean = context.emit(relax.op.mean(found[cut], axes), "importance") if axes else found[cut]
                parts.append(Part("importance", mean, name))
            return parts

        return self.stacked(forward, explained)
