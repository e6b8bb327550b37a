"""Run the bundle that this file lies in, on the board: ``python3 predict.py INPUT.npy [OUTPUT.npz]``.

Needs what requirements.txt names and no more: not the compiler, not tvm_lowbit. INPUT.npy is float32 ``(N, ...)``; if
there are several inputs, such as references of explanations, INPUT.npz holds each under its name.
Prints the largest output of each item and its explanation's gap; OUTPUT.npz takes all arrays.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

# The runtime alone is enough; it loads faster and in less memory than TVM's compiler.
os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")


def fail(message: str) -> None:
    """One line to stderr, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: list[str]) -> None:
    """Check the files, run the model, print and save."""
    if len(arguments) not in (1, 2):
        fail("usage: predict.py INPUT.npy [OUTPUT.npz], or INPUT.npz for several inputs")
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, expected in manifest["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            fail(f"{name} is not the file that the manifest describes; copy the bundle again")

    import numpy as np
    import tvm
    from tvm.runtime.vm import VirtualMachine

    try:
        given = np.load(arguments[0], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        fail(f"{arguments[0]}: expected arrays in .npy or .npz format, got {error}")
    rows, batch = manifest["inputs"], manifest["batch"]
    if not hasattr(given, "files"):
        given = {rows[0]["name"]: given}
    wanted = ", ".join(f"{row['name']} (N, {', '.join(map(str, row['shape'][1:]))})" for row in rows)
    missing = [row["name"] for row in rows if row["name"] not in given]
    if missing:
        how = (
            "save all with numpy.savez; tvm_lowbit.references.DinucleotideShuffle(...).shuffles(x) makes shuffled ones"
        )
        fail(f"expected an .npz with {wanted}, got none of {', '.join(missing)}; {how}")
    inputs = [given[row["name"]] for row in rows]
    for row, x in zip(rows, inputs, strict=True):
        fits = str(x.dtype) == row["dtype"] and list(x.shape[1:]) == row["shape"][1:]
        if not fits or not len(x) or len(x) % batch or len(x) != len(inputs[0]):
            fail(f"expected {row['dtype']} {wanted}, got {row['name']} {x.dtype} {x.shape}")
        if not np.all(np.isfinite(x)):
            fail(f"expected finite numbers, got NaN or infinity in {row['name']}")
    count = len(inputs[0])
    # Loading writes a warning without content for every constant of the model.
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        machine = VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    finally:
        os.dup2(stderr, 2)
    names = [output["name"] for output in manifest["outputs"]]
    for explanation in manifest["explanations"]:
        for part in explanation["results"]:
            layer = f"@{part['layer']}" if part["layer"] else ""
            names.append(f"{explanation['name']}.{part['field']}{layer}")
    names += [f"codes.{probe}" for probe in manifest["probes"]]
    parts = []
    for start in range(0, count, batch):
        machine.set_input("main", *[tvm.runtime.tensor(np.ascontiguousarray(x[start : start + batch])) for x in inputs])
        machine.invoke_stateful("main")
        outputs = machine.get_outputs("main")
        parts.append([outputs.numpy()] if hasattr(outputs, "numpy") else [o.numpy() for o in outputs])
    arrays = {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}
    best = arrays[names[0]].reshape(count, -1).argmax(axis=1)
    gaps = [name for name in names if name.endswith(".gap")]
    for i, index in enumerate(best):
        # One, or one for each target.
        said = {name: ", ".join(f"{gap:.2e}" for gap in np.ravel(arrays[name][i])) for name in gaps}
        print(f"{i}: {index}" + "".join(f"  {name} {text}" for name, text in said.items()))
    if len(arguments) == 2:
        np.savez(arguments[1], allow_pickle=False, **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
