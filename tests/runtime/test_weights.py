"""Weights: modules attached where others lie already."""

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
