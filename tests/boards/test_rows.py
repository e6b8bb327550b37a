"""What targets mean: the features that kernels rely on are those that LLVM will compile for."""

from __future__ import annotations

from typing import Any

import pytest

from tvm_lowbit.boards.rows import resolve

X86, ARM = "x86_64-linux-gnu", "aarch64-linux-gnu"


@pytest.mark.parametrize(
    ("target", "features"),
    [
        ({"mtriple": X86, "mcpu": "x86-64-v2"}, set()),
        ({"mtriple": X86, "mcpu": "haswell"}, {"fma"}),
        ({"mtriple": X86, "mcpu": "skylake-avx512"}, {"fma", "avx512"}),
        ({"mtriple": X86, "mcpu": "x86-64-v2", "mattr": ["+fma", "+avx2"]}, {"fma"}),
        ({"mtriple": ARM, "mcpu": "cortex-a53"}, {"asimd"}),
        ({"mtriple": ARM, "mcpu": "cortex-a76"}, {"asimd", "dotprod"}),
    ],
    ids=lambda value: value.get("mcpu", "") if isinstance(value, dict) else "",
)
def test_features_of_a_target(target: dict[str, Any], features: set[str]) -> None:
    assert resolve({"kind": "llvm", **target}).core.features == features
