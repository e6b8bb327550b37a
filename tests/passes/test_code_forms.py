"""Every form of a code is the same in TIR as in NumPy, at ties and one float beside them."""

from __future__ import annotations

import numpy as np
import pytest
from relax_models import evaluate, module, spec

from relay_passes.ops import fake_quant
from relay_passes.quant_spec import FORMS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axis", [None, 1])
def test_tir_equals_numpy(form: str, axis: int | None) -> None:
    random = np.random.default_rng(0)
    scale = random.uniform(0.01, 3, 5).astype(np.float32) if axis else np.float32(0.0667)
    q = spec(scale, -8, 7, 1.0 if form not in ("at_least_zero", "above_zero") else 0.0, axis, form)
    along = np.resize(scale, 5).reshape(1, 5, 1)
    ties = ((random.integers(-9, 9, (4, 5, 600)) + 0.5) * along).astype(np.float32)
    beside = [np.nextafter(ties, np.float32(end)) for end in (np.inf, -np.inf)]
    x = np.concatenate([ties, *beside, np.zeros_like(ties), random.normal(size=ties.shape).astype(np.float32)])
    mod = module(lambda emit, v: emit(fake_quant(v, q), "q"), x.shape)
    np.testing.assert_array_equal(evaluate(mod, x)[0], q.values(q.codes(x)))
