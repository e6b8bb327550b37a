"""``PHASES``: the way from an imported model to kernels, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relay_passes import verify
from relay_passes.attribution.instrument import instrument
from relay_passes.attribution.methods import Method
from relay_passes.canonicalize import canonicalize
from relay_passes.dataflow import Each, no_layers
from relay_passes.detect import detect_quantizers
from relay_passes.exclude import exclude_layers
from relay_passes.lower import lower_lowbit
from relay_passes.paddings import fold_padding
from relay_passes.probe import probe
from relay_passes.recover_grid import recover_grid
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import CoreSpec
from schedules.errors import LowbitError
from schedules.techniques import TECHNIQUES


@dataclass(frozen=True)
class Options:
    """What the phases need to know beyond the module.

    Attributes
    ----------
    core : CoreSpec
        Which core to choose techniques for.
    explain : tuple of Method
        Explanations to compile in.
    probe : bool
        Also return the codes of every activation quantiser.
    technique : str or None
        Use this technique wherever it does not decline.
    exclude : tuple of str
        Names of layers that stay float.
    each : callable
        Told the layers that a phase comes to: name, number, how many.
    """

    core: CoreSpec
    explain: tuple[Method, ...] = ()
    probe: bool = False
    technique: str | None = None
    exclude: tuple[str, ...] = ()
    each: Each = no_layers

    def __post_init__(self) -> None:
        # Here, as a network without low-bit layers never comes to choose one.
        if self.technique is not None and self.technique not in TECHNIQUES:
            raise LowbitError("technique", f"one of {', '.join(TECHNIQUES)}", repr(self.technique))

    def lowered(self, mod: Any) -> Any:
        """A module brought from the phase ``instrument`` to its end, for functions that are compiled apart."""
        return lower_lowbit(rewrite_lowbit(fold_padding(mod)), self.core, self.technique)


@dataclass(frozen=True)
class Phase:
    """One row: its name, what it does, the pass, and what must hold after it."""

    name: str
    help: str
    run: Callable[[Any, Options], Any]
    check: Callable[[Any], None] = lambda mod: None


PHASES = (
    Phase(
        "canonicalize",
        "one spelling of batch norm and constants",
        lambda m, o: canonicalize(m),
        verify.after_canonicalize,
    ),
    Phase(
        "detect", "every spelling of a quantiser to fake_quant", lambda m, o: detect_quantizers(m), verify.after_detect
    ),
    Phase(
        "exclude",
        "note the layers that stay float by request",
        lambda m, o: exclude_layers(m, o.exclude) if o.exclude else m,
    ),
    Phase(
        "recover_grid",
        "float weights on a grid of at most 8 bits to fake_quant",
        lambda m, o: recover_grid(m, o.each),
        verify.after_detect,
    ),
    Phase(
        "instrument", "append the explanations", lambda m, o: instrument(m, o.explain, o.lowered) if o.explain else m
    ),
    Phase("probe", "append the codes of quantisers, if asked for", lambda m, o: probe(m) if o.probe else m),
    Phase("fold_padding", "pads by 0 to the convolutions behind them", lambda m, o: fold_padding(m)),
    Phase("rewrite", "quantised layers to integer operators", lambda m, o: rewrite_lowbit(m), verify.after_rewrite),
    Phase(
        "lower",
        "integer operators to kernels",
        lambda m, o: lower_lowbit(m, o.core, o.technique, o.each),
        verify.after_lower,
    ),
)


def run_phases(
    mod: Any,
    options: Options,
    stop_after: str | None = None,
    after: Callable[[Phase, Any], None] = lambda phase, mod: None,
    before: Callable[[Phase], None] = lambda phase: None,
) -> Any:
    """Run the phases in order, each followed by its check.

    Parameters
    ----------
    mod : IRModule
        What `frontend.import_model` gave.
    options : Options
        See there.
    stop_after : str, optional
        Name of the last phase to run.
    after : callable, optional
        Called with each phase and the module it gave (dumps).
    before : callable, optional
        Called with each phase as it begins (progress).

    Raises
    ------
    LowbitError
        If ``stop_after`` names no phase, or a phase finds fault with the model.
    """
    names = [phase.name for phase in PHASES]
    if stop_after is not None and stop_after not in names:
        raise LowbitError("stop_after", f"one of {', '.join(names)}", repr(stop_after))
    for phase in PHASES:
        before(phase)
        mod = phase.run(mod, options)
        phase.check(mod)
        after(phase, mod)
        if phase.name == stop_after:
            break
    return mod
