"""Exports in float16."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from bcd.export.build import build
from bcd.export.float16 import store_float16
from bcd.inference.self_test import FLOAT16_TOLERANCE
from tests.export.making import smears, tensors, with_card
from tests.helpers.explaining import made, small


def test_float16_holds_the_weights_and_nothing_of_the_policy() -> None:
    network, card = with_card(made(small()), small())
    exact, half = (build(network, card, "onnx", kind) for kind in ("float32", "float16"))
    half.parity.check(FLOAT16_TOLERANCE)
    before, after = tensors(exact.data), tensors(half.data)
    large = {n for n, t in before.items() if t.data_type == TensorProto.FLOAT and len(t.dims) == 4}
    large = {n for n in large if np.prod(before[n].dims[1:]) >= 32}
    assert large
    for name in large:
        assert after[f"{name}_float16"].data_type == TensorProto.FLOAT16
        assert name not in after
    for name, tensor in before.items():
        if tensor.data_type == TensorProto.DOUBLE:
            assert after[name] == tensor
    for image in smears(card.input_size, 4):
        one, other = exact.answer(image[None]), half.answer(image[None])
        assert not np.array_equal(one["probabilities"], other["probabilities"])
        np.testing.assert_allclose(
            one["probabilities"], other["probabilities"], atol=FLOAT16_TOLERANCE
        )


def test_a_weight_that_float16_cannot_hold_stays() -> None:
    network, card = with_card(made(small()), small())
    model = onnx.load_from_string(build(network, card, "onnx").data)
    wide = next(t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[1] > 3)
    values = numpy_helper.to_array(wide).copy()
    values.flat[0] = 1e6
    wide.CopyFrom(numpy_helper.from_array(values, wide.name))
    store_float16(model)
    kept = {t.name: t.data_type for t in model.graph.initializer}
    assert kept[wide.name] == TensorProto.FLOAT
    assert TensorProto.FLOAT16 in kept.values()
