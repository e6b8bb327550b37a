"""Walking and rewriting straight-line functions."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from relax_models import const, module, operators, text, values
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes import dataflow
from schedules.errors import LowbitError


def chain() -> Any:
    """relu, then add to itself; an unused exp."""

    def body(emit: Any, x: Any) -> Any:
        relu = emit(relax.op.nn.relu(x), "first")
        emit(relax.op.exp(relu), "unused")
        return emit(relax.op.add(relu, relu), "second")

    return module(body, (2, 3))


def test_bindings_in_order() -> None:
    """Names come as they were given."""
    assert [dataflow.name_of(b.var) for b in dataflow.bindings(chain()["main"])][:3] == ["first", "unused", "second"]


def test_control_flow_is_refused() -> None:
    """An If is named in the message."""

    @I.ir_module
    class Branching:
        @R.function
        def main(x: R.Tensor((2,), "float32"), c: R.Tensor((), "bool")) -> R.Tensor((2,), "float32"):
            if c:  # noqa: SIM108 - TVMScript has no conditional expressions
                y = R.exp(x)
            else:
                y = R.nn.relu(x)
            return y

    with pytest.raises(LowbitError, match="without control flow"):
        list(dataflow.bindings(Branching["main"]))


def test_rebuild_keeps_all_but_dead_code() -> None:
    """Structural equality with TVM's own dead code elimination."""
    before = chain()
    expected = relax.transform.DeadCodeElimination(["main"])(before)
    after = dataflow.rebuild(before)
    assert operators(before) == ["relax.nn.relu", "relax.exp", "relax.add"]
    assert operators(after) == operators(expected) == ["relax.nn.relu", "relax.add"]
    tvm.ir.assert_structural_equal(after["main"].ret_ty, expected["main"].ret_ty)


def test_rebuild_replaces_and_keeps_other_functions_and_attributes() -> None:
    """The visited value takes the variable's place everywhere."""
    mod = chain()
    mod.update_func(mod.get_global_var("main"), mod["main"].with_attr("kept", "yes"))
    helper = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([2], "float32"))
    with helper.function("helper", [x]):
        helper.emit_func_output(helper.emit(relax.op.exp(x)))
    mod[tvm.ir.GlobalVar("helper")] = helper.get()["helper"]

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        if dataflow.name_of(var) == "first":
            return scope.emit(relax.op.abs(value.args[0]), "first")
        return dataflow.keep(var, value, scope)

    after = dataflow.rebuild(mod, visit)
    assert operators(after) == ["relax.abs", "relax.add"]
    assert str(after["main"].attrs["kept"]) == "yes"
    assert "helper" in [gv.name_hint for gv in after.functions]
    assert operators(mod) == ["relax.nn.relu", "relax.exp", "relax.add"], "the module given must stay as it was"


def test_finish_adds_results() -> None:
    """What a function returns may be replaced."""

    def finish(body: Any, scope: dataflow.Scope) -> Any:
        return relax.Tuple([body, scope.emit(relax.op.negative(body), "extra")])

    after = dataflow.rebuild(chain(), finish=finish)
    assert isinstance(after["main"].ret_ty, relax.TupleType)
    assert operators(after) == ["relax.nn.relu", "relax.add", "relax.negative"]


def test_tuples_are_seen_through() -> None:
    """The item of a tuple that a rewrite wrote is the item itself."""

    def body(emit: Any, x: Any) -> Any:
        pair = emit(relax.Tuple([x, emit(relax.op.exp(x), "e")]), "pair")
        return emit(relax.op.nn.relu(emit(pair[1], "item")), "r")

    after = dataflow.rebuild(module(body, (2,)))
    assert operators(after) == ["relax.exp", "relax.nn.relu"]
    assert not any(isinstance(v, relax.Tuple | relax.TupleGetItem) for v in values(after).values())


def test_readers_count_every_use() -> None:
    """Twice by one call, through tuples, and by the result."""

    def body(emit: Any, x: Any) -> Any:
        first = emit(relax.op.nn.relu(x), "first")
        second = emit(relax.op.add(first, first), "second")
        third = emit(relax.op.concat([first, second], axis=0), "third")
        return relax.Tuple([emit(relax.op.exp(third), "fourth"), second])

    function = module(body, (2, 3))["main"]
    found = {
        dataflow.name_of(var): [None if r is None else dataflow.name_of(r) for r in who]
        for var, who in dataflow.readers(function).items()
    }
    assert found["x"] == ["first"]
    assert found["first"] == ["second", "second", "third"]
    assert found["third"] == ["fourth"]
    assert len(found["second"]) == 2


def test_rebuild_is_repeatable() -> None:
    """Twice is once; names stay."""
    once = dataflow.rebuild(chain())
    twice = dataflow.rebuild(once)
    tvm.ir.assert_structural_equal(once, twice)
    assert text(once) == text(twice)


def test_remap_leaves_constants() -> None:
    """A constant stands for itself."""
    c = const(1.0)
    assert dataflow.remap(c, {}) is c
