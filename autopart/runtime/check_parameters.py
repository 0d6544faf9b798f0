"""check_parameters: whether what a user did to parameters after `parallelize` is something that a step heeds."""

from collections.abc import Mapping

from torch import nn

from autopart.errors import UnsupportedError
from autopart.ir.program import ParameterShard
from autopart.runtime.gradients import gradient_arrived


def check_parameters(
    specs: Mapping[str, ParameterShard],
    computed: Mapping[str, nn.Parameter],
    updated: Mapping[str, nn.Parameter],
    splits: bool,
) -> frozenset[str]:
    """The names of those that are frozen by now, and were planned to be trained.

    Args:
        specs: what was planned of each parameter of this rank, by its original name.
        computed: what passes compute with.
        updated: what the optimizer is given; under ZeRO pieces, which no graph of autograd has.
        splits: whether the schedule puts off gradients of weights, which autograd then does not see.

    Raises:
        UnsupportedError: a parameter was planned as frozen and is to be trained; or one has hooks that would not be
            called, or not with its gradient.
    """
    frozen = set()
    for name, leaf in updated.items():
        own, planned = computed[name], specs[name].trainable
        trains = leaf.requires_grad and own.requires_grad if planned else leaf.requires_grad or own.requires_grad
        if trains and not planned:
            raise UnsupportedError(
                f"{name} was frozen when the model was planned, and no gradient of it is summed over ranks: call "
                "requires_grad_(True) before parallelize, and leave it out of the optimizer as long as it is frozen"
            )
        if planned and not trains:
            frozen.add(name)
        _check_hooks(name, own, leaf, splits)
    return frozenset(frozen)


def _check_hooks(name: str, own: nn.Parameter, leaf: nn.Parameter, splits: bool) -> None:
    instead = "change `grad` between par.train_step and the optimizer's step"
    hooks = [hook for x in (own, leaf) for hook in (x._post_accumulate_grad_hooks or {}).values()]
    if any(getattr(hook, "func", None) is not gradient_arrived for hook in hooks):
        raise UnsupportedError(
            f"{name} has a hook by register_post_accumulate_grad_hook, which would be called in the pass of each "
            f"micro-batch, before gradients are summed over ranks: {instead}"
        )
    if (leaf is not own and leaf._backward_hooks) or (splits and own._backward_hooks):
        why = (
            "the plan's schedule puts off gradients of weights" if leaf is own else "under ZeRO this is a rank's piece"
        )
        raise UnsupportedError(
            f"{name} has a hook by register_hook, which would not be called with its gradient, as {why}: {instead}"
        )
