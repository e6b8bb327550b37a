"""``markdown``: what the experiments gave, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from explanations.ablation import COUNTS
from explanations.ablation import LAYER as ABLATED
from explanations.experiments import EXPERIMENTS, FEW, SEEDS, SHUFFLES
from explanations.flip import ERASED, FLIPS
from explanations.methods import METHODS, NEURON_METHODS
from explanations.models import SCHEMES
from explanations.motifs import MOTIFS
from explanations.shares import BEST, STRONG

Rows = Mapping[str, Mapping[str, Any]]
REFERENCE_TITLES: Mapping[str, str] = {
    "zeros": "all zeros",
    "background": "background frequencies",
    "shuffled": "dinucleotide shuffles",
}
FLIPS_FIGURE, LOGOS_FIGURE, ABLATION_FIGURE = "flips.png", "logos.png", "ablation.png"


def select(rows: Rows, experiment: str) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """The rows of an experiment that did not fail, by the rest of their keys."""
    split = {tuple(key.split("/")): row for key, row in rows.items() if "error" not in row}
    return {key[1:]: row for key, row in split.items() if key[0] == experiment}


def spread(figures: Sequence[float], wanted: int | None = None) -> str:
    """Mean, the standard deviation where there are several, and how many where they are fewer than wanted."""
    if not figures:
        return ""
    text = f"{mean(figures):.1f}" if len(figures) < 2 else f"{mean(figures):.1f} ± {stdev(figures):.1f}"
    return text if wanted is None or len(figures) == wanted else f"{text} (of {len(figures)})"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown; none without rows."""
    body = [f"| {' | '.join(line)} |" for line in lines]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body] if body else []


def markdown(result: Mapping[str, Any]) -> str:
    """The page.

    Parameters
    ----------
    result : mapping
        ``versions``, and ``rows`` by key: ``flip/scheme/seed/method``, ``motifs/scheme/method/reference`` and
        ``ablation/scheme/seed/method``.
    """
    rows: Rows = result["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = ["# What explanations are worth", "", f"Written by `python -m explanations`; {versions}.", "", _HOW, ""]
    for title, section in (("Digit flip", _flips), ("Motifs in DNA", _motifs), ("Neuron ablation", _ablation)):
        if lines := section(rows):
            parts += [f"## {title}", "", *lines, ""]
    failed = [f"- {key}: {row['error']}" for key, row in sorted(rows.items()) if "error" in row]
    if missing := failed + _absent(rows):
        parts += ["## Not measured", "", "`python -m explanations` measures what is not there yet.", "", *missing, ""]
    return "\n".join(parts)


_HOW = """\
Every explanation here comes out of a library that `tvm_lowbit.build(network, "host", explain=[...])` compiled: the
quantised networks' scores are those of their integer codes. Networks are trained by `examples/explanations` with the
learned-step quantisers of `examples/digits`; in the quantised ones the input and the first and last layer's weights
have 8 bits, and each starts from the fp32 network of its seed and learns from its answers. "(of 2)" behind a figure:
two trainings were measured, not all; such a figure is no fair match for the others. The JSON file beside this page
has every row with its seed; `python -m explanations --only-write` writes page and figures again from it."""


def _seeds(found: Mapping[tuple[str, ...], Any]) -> list[str]:
    return sorted({key[1] for key in found}, key=int)


def _columns(found: Mapping[tuple[str, ...], Any]) -> list[str]:
    return [scheme for scheme in SCHEMES if any(key[0] == scheme for key in found)]


def scheme_title(scheme: str) -> str:
    """As tables write it."""
    return scheme if scheme == "fp32" else scheme.upper()


def _flips(rows: Rows) -> list[str]:
    found = select(rows, "flip")
    if not found:
        return []
    schemes, seeds = _columns(found), _seeds(found)
    known = {name: method for name, method in METHODS.items() if any(key[2] == name for key in found)}

    def figures(scheme: str, name: str, of: Any) -> list[float]:
        rows = [found[scheme, seed, name] for seed in seeds if (scheme, seed, name) in found]
        return [value for row in rows if (value := of(row)) is not None]

    pairs = ", ".join(f"{source} to {goal}" for source, goal in FLIPS)
    accuracy = ", ".join(
        f"{scheme_title(scheme)} {spread([100 * a for a in _accuracies(found, scheme)])} %" for scheme in schemes
    )
    head = ("method", *map(scheme_title, schemes))
    changes = [
        (method.title, *(spread(figures(scheme, name, lambda row: row["mean"]), len(seeds)) for scheme in schemes))
        for name, method in known.items()
    ]
    gaps = [
        (method.title, *(_percent(figures(scheme, name, lambda row: row.get("gap"))) for scheme in schemes))
        for name, method in known.items()
        if any(figures(scheme, name, lambda row: row.get("gap")) for scheme in schemes)
    ]
    each = [
        (
            method.title,
            *(
                spread(figures("w2a2", name, lambda row, flip=flip: row["changes"][flip]), len(seeds))
                for flip in pairs.split(", ")
            ),
        )
        for name, method in known.items()
    ]
    return [
        f"Scikit-learn's digits, {pairs}: of each test digit of the first class, up to {ERASED} of 64 pixels, those "
        "that speak most for the first class against the second, are set to 0 (where their score is positive). The "
        "figure is by how much the log-odds of the first class against the second fall, mean over digits and flips; "
        f"mean and standard deviation over the trainings' seeds {', '.join(seeds)}. Larger is better. Test accuracy: "
        f"{accuracy}. Maps of Grad-CAM (one weight a channel) and LayerCAM have 4 x 4 places, upsampled.",
        *("", *table(head, changes), "", f"![Digit flip](explanations/{FLIPS_FIGURE})"),
        *("", "W2A2 by flip:", "", *table(("method", *pairs.split(", ")), each)),
        "",
        "What contributions miss of the differences they explain: mean size of the gap over that of the difference.",
        *("", *table(head, gaps)),
    ]


def _accuracies(found: Mapping[tuple[str, ...], Any], scheme: str) -> list[float]:
    by_seed = {key[1]: row["accuracy"] for key, row in found.items() if key[0] == scheme}
    return list(by_seed.values())


def _percent(figures: Sequence[float]) -> str:
    if not figures:
        return ""
    share = 100 * mean(figures)
    return f"{share:.1f} %" if share >= 0.05 else f"{share:.0e} %"


def _motifs(rows: Rows) -> list[str]:
    found = select(rows, "motifs")
    if not found:
        return []
    schemes = _columns(found)
    lines = []
    for name, method in METHODS.items():
        for reference, title in REFERENCE_TITLES.items():
            cells = [found.get((scheme, name, reference)) for scheme in schemes]
            if any(cells):
                shares = [f"{row['missed'][motif]['share']:.3f}" if row else "" for row in cells for motif in MOTIFS]
                gaps = [_percent([row["gap"]]) if row and "gap" in row else "" for row in cells]
                count = next(row["sequences"] for row in cells if row)
                lines.append((method.title, title, str(count), *shares, *gaps))
    one = max(found.values(), key=lambda row: row["sequences"])
    counts = " and ".join(f"{one['missed'][motif]['matches']} of {motif}" for motif in MOTIFS)
    right = ", ".join(
        f"{scheme_title(scheme)} {100 * next(row['accuracy'] for key, row in found.items() if key[0] == scheme):.1f} %"
        for scheme in schemes
    )
    head = (
        "method",
        "measured from",
        "sequences",
        *(f"{scheme_title(scheme)}, {motif}" for scheme in schemes for motif in MOTIFS),
    )
    return [
        "The DeepLIFT paper's simulation (1704.02685, section 4.2, Fig. 5b): DNA of 200 letters with one to three "
        "instances of the TAL1 motif, of GATA1, of both or of none, and a network (two convolutions of 50 filters of "
        "width 11, mean over positions, dense layer of 50) that says whether there are both, GATA1, TAL1. Right "
        f"answers on test sequences: {right}. The figure is the share of strong matches (log-odds against the "
        f"background above {STRONG:g}, among the best {BEST} of a sequence; {counts} in {one['sequences']} test "
        'sequences that have both) whose letters add up to zero or less for the task "both": evidence that the '
        "explanation misses. Smaller is better. What explains each sequence many times over does so for the first "
        f"{FEW} of them; shuffles keep the counts of neighbouring letters, and {SHUFFLES} are averaged.",
        *("", *table((*head, *(f"{scheme_title(scheme)}, gap" for scheme in schemes)), lines)),
        "",
        "One test sequence, measured from background frequencies; strong matches of TAL1 on grey, of GATA1 on yellow:",
        *("", f"![Sequence logos](explanations/{LOGOS_FIGURE})"),
    ]


def _ablation(rows: Rows) -> list[str]:
    found = select(rows, "ablation")
    if not found:
        return []
    schemes, seeds = _columns(found), _seeds(found)
    lines = []
    for name, method in NEURON_METHODS.items():
        cells = []
        for scheme in schemes:
            known = [found[key] for key in ((scheme, seed, name) for seed in seeds) if key in found]
            cells += [spread([row["drops"][str(count)] for row in known], len(seeds)) for count in COUNTS]
        if any(cells):
            lines.append((method.title, *cells))
    head = ("channels ranked by", *(f"{scheme_title(scheme)}, {count} off" for scheme in schemes for count in COUNTS))
    return [
        f"Of the 64 channels of the second convolution (`{ABLATED}`) of the digits' networks, those that add most to "
        "the predicted class take the values that an empty image gives them. The figure is by how much the class's "
        f"logit falls, mean over test digits; mean and standard deviation over seeds {', '.join(seeds)}. Larger is "
        "better.",
        *("", *table(head, lines), "", f"![Neuron ablation](explanations/{ABLATION_FIGURE})"),
    ]


def _absent(rows: Rows) -> list[str]:
    """How many rows of each method are missing, by experiment."""
    lines = []
    for experiment, planned in EXPERIMENTS.items():
        absent: Counter[str] = Counter()
        every: Counter[str] = Counter()
        for task in planned(tuple(SCHEMES), SEEDS, None):
            every[task.method] += 1
            absent[task.method] += task.key not in rows
        titles = {
            name: method.title for name, method in (NEURON_METHODS if experiment == "ablation" else METHODS).items()
        }
        told = [f"{titles[name]} ({absent[name]} of {every[name]})" for name in every if absent[name]]
        lines += [f"- {experiment}: {', '.join(told)}"] if told else []
    return lines
