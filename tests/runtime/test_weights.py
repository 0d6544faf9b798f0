"""Weights: modules attached where others lie already."""

from copy import deepcopy

import torch

from autopart.runtime.weights import Weights, constant, parameter


def test_an_attached_block_keeps_its_own_and_takes_over_what_lies_there() -> None:
    shared = parameter(2, dtype=torch.float32)
    stage = Weights(layer=Weights(experts=Weights(shared=shared, scale=constant(1, dtype=torch.float32))))
    block = Weights(experts=Weights(inner=Weights(weight=parameter(3, dtype=torch.float32))))
    assert stage.attach(("layer",), block) is block
    assert set(dict(stage.named_parameters())) == {"layer.experts.inner.weight", "layer.experts.shared"}
    assert dict(stage.named_parameters())["layer.experts.shared"] is shared
    assert set(dict(stage.named_buffers())) == {"layer.experts.scale"}


def test_a_part_is_the_one_that_is_registered() -> None:
    """However it came there: put in, put in its place, or copied."""
    stage = Weights(layer=Weights(weight=parameter(2, dtype=torch.float32)))
    assert stage.layer is dict(stage.named_modules())["layer"]
    copied = deepcopy(stage)
    assert copied.layer is dict(copied.named_modules())["layer"] is not stage.layer
    stage.layer = Weights(weight=parameter(3, dtype=torch.float32))
    assert stage.layer is dict(stage.named_modules())["layer"] and stage.layer.weight.shape == (3,)
