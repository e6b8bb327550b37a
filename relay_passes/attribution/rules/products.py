"""Products of all elements along axes: a tree of products of two, half by half, each with the other's mean.

Of more than two factors a product's difference can be shared in many ways. A tree treats them alike but for who stands
beside whom: the first half of the elements is multiplied with the second, the one left over of an odd number with the
rest afterwards, and so on. No factor is divided by, so zeros do no harm, and n factors take log2 n steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.composed import composed
from relay_passes.ops import shape_of


def prod(emit: Any, call: Any, x: Any) -> Any:
    """A tree of products of two, half by half, each factor beside the other's mean."""
    shape = shape_of(x)
    axes = [int(a) % len(shape) for a in call.attrs.axis] if call.attrs.axis is not None else range(len(shape))
    kept = [i for i in range(len(shape)) if i not in axes]
    x = emit(relax.op.permute_dims(x, [*kept, *(i for i in range(len(shape)) if i in axes)]))
    count, last = int(np.prod([shape[i] for i in axes])), len(kept)
    x = emit(relax.op.reshape(x, relax.ShapeExpr([*(shape[i] for i in kept), count])))

    def part(begin: int, end: int) -> Any:
        return emit(relax.op.strided_slice(x, [last], [begin], [end]))

    while count > 1:
        half = count // 2
        product = emit(relax.op.multiply(part(0, half), part(half, 2 * half)))
        x = emit(relax.op.concat([product, part(2 * half, count)], last)) if count % 2 else product
        count -= half
    extents = [1 if i in axes else e for i, e in enumerate(shape) if i not in axes or call.attrs.keepdims]
    return emit(relax.op.reshape(x, relax.ShapeExpr(extents)))


PRODUCTS = {"relax.prod": composed(prod, items=True)}
