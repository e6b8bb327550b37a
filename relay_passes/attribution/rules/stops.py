"""``STOPS``: operators through which no explanation goes, and why; an error says so where one stands on the way.

Where they lead to other outputs only, nothing is asked of them.
"""

from __future__ import annotations

from collections.abc import Mapping

_PLACES = "it gives places, not values: no difference of the input is proportional to a difference of places"
_CHOSEN = "which values it gives depends on the input"
_CALL = "it is a kernel without an operator's name"

STOPS: Mapping[str, str] = {
    "relax.argmax": _PLACES,
    "relax.argmin": _PLACES,
    "relax.argsort": _PLACES,
    "relax.nonzero": _PLACES,
    "relax.unique": _PLACES,
    "relax.bucketize": _PLACES,
    "relax.one_hot": _PLACES,
    "relax.sort": _CHOSEN,
    "relax.topk": _CHOSEN,
    "relax.median": _CHOSEN,
    "relax.vision.non_max_suppression": _CHOSEN,
    "relax.vision.all_class_non_max_suppression": _CHOSEN,
    "relax.vision.get_valid_counts": _CHOSEN,
    "relax.call_tir": _CALL,
    "relax.call_dps_packed": _CALL,
}
