"""Tables of what is recognised and what is declined, made from the code: spellings of quantisers, and operators."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from relay_passes import recover_grid
from relay_passes.attribution.rules import RULES, STOPS
from relay_passes.coverage import Spelling
from relay_passes.einsums import EINSUM
from relay_passes.integer_forms import INTEGER_FORMS
from relay_passes.norms import NORMS
from relay_passes.patterns import QUANT_PATTERNS
from relay_passes.positions import TAKEN
from relay_passes.quant_spec import QuantSpec
from schedules.errors import LowbitError
from tvm_lowbit.declines import reasons
from tvm_lowbit.from_onnx import finn, qonnx, sub_byte

# Each has ``SPELLINGS``, its rows.
_OTHERS = (qonnx, finn, sub_byte, recover_grid)
# These need torch, which is optional.
_OF_TORCH = ("tvm_lowbit.from_torch.quantisers", "tvm_lowbit.from_torch.pairs")
SEVERAL = "\n"
WRITTEN_OUT = "as its parts"


def spellings() -> tuple[Spelling, ...]:
    """Every way of writing a quantiser: the rows of `QUANT_PATTERNS`, then those of the importers and of the grid.

    Those of torch are among them where torch is installed.

    Raises
    ------
    ValueError
        If a row of `QUANT_PATTERNS` does not say what it covers.
    """
    rows = []
    for pattern in QUANT_PATTERNS.values():
        if pattern.covers is None:
            raise ValueError(f"quantiser pattern {pattern.name!r} does not say what it covers")
        rows.append(Spelling(pattern.name, pattern.help, pattern.covers, pattern.make))
    of_torch = _OF_TORCH if importlib.util.find_spec("torch") else ()
    modules = (*_OTHERS, *map(importlib.import_module, of_torch))
    return (*rows, *(row for module in modules for row in module.SPELLINGS))


@dataclass(frozen=True)
class Listing:
    """A table as text: its title, what it says, its headings, and a row of cells each."""

    title: str
    text: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def table(self) -> Table:
        """For a rich console."""
        table = Table(title=f"{self.title}. {self.text}", title_justify="left")
        for heading in self.headings:
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row), end_section=True)
        return table

    def markdown(self) -> str:
        """The same, for documents; several reasons stand one a line."""
        lines = [f"## {self.title}", "", self.text, "", _line(self.headings), _line(["---"] * len(self.headings))]
        lines += [_line([cell.replace("|", "\\|").replace(SEVERAL, "<br>") for cell in row]) for row in self.rows]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def listings() -> tuple[Listing, ...]:
    """All tables, made from the code as it is now."""
    return _spellings(), _operators()


def markdown() -> str:
    """The document that ``tvm-lowbit spellings --markdown`` writes."""
    how = "Written by `tvm-lowbit spellings --markdown > docs/spellings.md`; a test fails where it is stale."
    head = f"# Spellings and operators\n\n{how}\n"
    return "\n".join((head, *(listing.markdown() for listing in listings())))


def _spellings() -> Listing:
    shared = reasons(QuantSpec.checked)
    refused = reasons(QuantSpec.checked, LowbitError)
    rows = []
    for row in spellings():
        declined = [reason for reason in reasons(row.reads) if reason not in shared]
        errors = [reason for reason in reasons(row.reads, LowbitError) if reason not in refused]
        covers = row.covers
        rows.append(
            (
                row.name,
                row.help,
                ", ".join(covers.front_ends),
                _widths(covers.weights, covers.grains),
                _widths(covers.activations, covers.signs),
                SEVERAL.join(declined),
                SEVERAL.join(errors),
            )
        )
    text = (
        "What is declined stays float, exact, and `tvm-lowbit inspect` prints the reason; what is refused is an error. "
        f"Every spelling also declines where {_any_of(shared)}, and refuses a model with: {_any_of(refused)}."
    )
    headings = ("spelling", "written as", "front ends", "bits of weights", "bits of activations")
    return Listing("Spellings of quantisers", text, (*headings, "declined", "refused"), rows)


def _operators() -> Listing:
    rows = []
    for operator in dict.fromkeys((*INTEGER_FORMS, *RULES, *STOPS)):
        form, rule = INTEGER_FORMS.get(operator), RULES.get(operator)
        rows.append(
            (
                operator.removeprefix("relax."),
                "no" if form is None else _first_line(form),
                "" if form is None else SEVERAL.join(reasons(form)),
                "none" if rule is None else _first_line(rule),
                STOPS.get(operator, "") if rule is None else SEVERAL.join(reasons(rule, NotImplementedError)),
            )
        )
    written = [o for o in (*NORMS, EINSUM, *TAKEN) if o not in (*INTEGER_FORMS, *RULES)]
    rows += [(operator.removeprefix("relax."), WRITTEN_OUT, "", WRITTEN_OUT, "") for operator in written]
    text = "An operator that is not listed, or declines, runs in float on the values of the codes: right, only slower."
    headings = ("operator", "on integers", "stays float where", "attribution rule", "no rule where")
    return Listing("Operators", text, headings, rows)


def _widths(bits: Sequence[int], kinds: Sequence[str]) -> str:
    if not bits:
        return "-"
    spans = list(_spans(sorted(bits)))
    return f"{', '.join(spans)} ({', '.join(kinds)})"


def _spans(bits: Sequence[int]) -> Iterator[str]:
    start = bits[0]
    for here, following in zip(bits, (*bits[1:], None), strict=True):
        if following != here + 1:
            yield f"{start}" if start == here else f"{start}-{here}"
            start = following or 0


def _any_of(said: Sequence[str]) -> str:
    return ", or ".join(said)


def _first_line(function: Callable[..., Any]) -> str:
    """The first sentence of a function's docstring; of the one that made it, for a closure."""
    documented = inspect.getdoc(function)
    if documented is None:
        maker = function.__globals__.get(function.__qualname__.split(".")[0])
        documented = inspect.getdoc(maker) if maker is not None else None
    return (documented or "yes").split("\n\n")[0].replace("\n", " ").replace("``", "`").rstrip(".")
