"""``tvm-lowbit explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvm_lowbit import LowbitError
from tvm_lowbit.boards import Board
from tvm_lowbit.cli.options import (
    METHOD,
    PATH,
    REFERENCES,
    board_options,
    examples,
    input_option,
    method_of,
    method_options,
    there,
)
from tvm_lowbit.cli.running import artifact_of, run_on
from tvm_lowbit.cli.screen import show
from tvm_lowbit.images import arrays_of, predictions, write_arrays

_EXAMPLES = (
    "explain net.onnx --input digit.png --out report.html",
    "explain net.onnx --input photo.jpg --reference 0.485,0.456,0.406 --out report.html",
    "explain net.onnx --input dna.npy --reference dinucleotide:20 --rule genomics --class 3 --out maps/",
)


# Methods whose parts at layers a page draws as bars: it asks for all layers where none is named.
_ALL_LAYERS = ("deeplift", "semiring_path", "semiring_entropy")


@click.command("explain", epilog=REFERENCES + examples(*_EXAMPLES))
@click.argument("model", metavar="MODEL_OR_BUNDLE", type=PATH, callback=there)
@input_option
@click.option("--method", type=METHOD, default="deeplift", show_default=True, help="How to explain.")
@method_options
@click.option("--out", type=PATH, required=True, help="Page or folder to write. Example: report.html, maps/")
@board_options
def explain_command(model: Path, source: Path, method: str, settings: Any, out: Path, board: Board | None) -> None:
    """Show what each input element adds.

    With --out PAGE.html one page: input, heat map, outputs, layers, gap; PAGE.npz holds the arrays. With --out FOLDER a
    picture for each of up to 12 items, sheets of 40 for more, and contributions.npz. A MODEL is built first, as for
    `run`; a BUNDLE gives the explanation that it was built with.
    """
    page = out.suffix.lower() in (".html", ".htm")
    if model.is_dir() and settings:
        raise click.UsageError("a bundle's explanation was fixed when it was built: leave out --reference and the like")
    given_files = {path.resolve() for path in (source, Path(settings.get("reference", source)))}
    arrays = out.with_suffix(".npz") if page else out / "contributions.npz"
    if arrays.resolve() in given_files:
        raise LowbitError(
            f"--out {out}", "another place than the input's or the reference's", f"{arrays}, to be written"
        )
    if page and not model.is_dir() and "layers" not in settings and method in _ALL_LAYERS:
        settings = settings | {"layers": ("all",)}
    artifact = artifact_of(model, board, [] if model.is_dir() else [method_of(method, settings, model)])
    row = next((row for row in artifact.manifest.explanations if row.method == method), None)
    if row is None:
        raise LowbitError(f"bundle {model}", f"an explanation by {method}", "none", f"build it with --explain {method}")
    name, given = row.name, {result.field for result in row.results if not result.layer}
    if not page and ("contributions" not in given or isinstance(row.target, list)):
        several = " of several targets" if isinstance(row.target, list) else ""
        got = f"{method}, which gives {', '.join(sorted(given))}{several}"
        hint = "a page shows them: --out report.html"
        raise LowbitError(f"--out {out}", "a method that gives contributions to one target, for pictures", got, hint)
    inputs, result = run_on(artifact, source, board)
    if page:
        from tvm_lowbit.page.render import write_page  # matplotlib takes a second that other commands need not wait

        write_arrays(arrays, arrays_of(result))
        write_page(out, f"{model.name}, {source.name}", inputs, result, name, artifact.manifest)
        show(predictions(result))
        click.echo(f"{out} and {arrays.name}")
        return
    from tvm_lowbit.heatmap import write_heatmaps

    written = write_heatmaps(out, inputs, result, name)
    write_arrays(arrays, arrays_of(result))
    show(predictions(result))
    click.echo(f"in {out}: {', '.join(path.name for path in written)}, contributions.npz")
