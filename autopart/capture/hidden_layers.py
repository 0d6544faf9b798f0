"""Hidden layers: of many modules that look alike, those whose weights an export need not see.

What export does costs by the tensor. A layer that does the same as one before needs none of its own in the exported
program: it is written out from the other, with its weights by their names. Which layers these are is known when the
model has run, so all but the first of a kind are taken for such, and a layer that turns out to be needed is shown in
the next try.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from autopart.capture.repeated_modules import RepeatedModule, repeated_modules

LEAST = 256  # tensors; to begin again for fewer would cost more than it saves


@dataclass(frozen=True)
class HiddenLayers:
    """Layers that are hidden.

    Attributes:
        paths: of the layers.
        modules: the ids of the layers and of all inside of them.
        names: of their parameters and buffers, by the tensors' ids.
    """

    paths: frozenset[str] = frozenset()
    modules: frozenset[int] = frozenset()
    names: Mapping[int, str] = field(default_factory=dict)


class LayersNeededError(Exception):
    """The layers at `paths` must be seen."""

    def __init__(self, paths: Collection[str]) -> None:
        super().__init__(f"layers that do something else are hidden: {', '.join(paths)}")
        self.paths = frozenset(paths)


def hidden_layers(root: nn.Module, shown: Collection[str] = ()) -> HiddenLayers:
    """The layers of `root` to hide: of each kind all but the first, those `shown` and those that share something.

    None at all if they have fewer than LEAST tensors.
    """
    first: dict[int, RepeatedModule] = {}
    candidates = [own for own in repeated_modules(root) if first.setdefault(own.kind, own) is not own]
    places = Counter(id(module) for _, module in root.named_modules(remove_duplicate=False))
    uses = Counter(id(tensor) for _, tensor in _tensors(root))
    paths: set[str] = set()
    modules: set[int] = set()
    names: dict[int, str] = {}
    for candidate in candidates:
        inside = [id(module) for module in candidate.module.modules()]
        own = {id(tensor): f"{candidate.path}.{name}" for name, tensor in _tensors(candidate.module)}
        if candidate.path not in shown and all(places[x] == 1 for x in inside) and all(uses[x] == 1 for x in own):
            paths.add(candidate.path)
            modules.update(inside)
            names.update(own)
    return HiddenLayers(frozenset(paths), frozenset(modules), names) if len(names) >= LEAST else HiddenLayers()


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
