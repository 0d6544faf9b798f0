"""share_parameters: what several stages of a rank have becomes one parameter."""

from collections.abc import Sequence

from torch import nn


def share_parameters(modules: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of all modules by their names; one that several have becomes the same, the first one's."""
    named: dict[str, nn.Parameter] = {}
    for module in modules:
        for name, parameter in list(module.named_parameters()):
            shared = named.setdefault(name, parameter)
            if shared is not parameter:
                owner, _, last = name.rpartition(".")
                module.get_submodule(owner).register_parameter(last, shared)
    return named
