"""Repeated modules: which modules of a model look alike, and are worth comparing by what they do."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

# What tracing one module costs is counted as one and one for each of its own tensors; a repetition costs this much.
REPETITION = 3


@dataclass(frozen=True)
class RepeatedModule:
    """A `module` called `path` that looks like all others of its `kind`. Whether it does the same is not known yet."""

    module: nn.Module
    path: str
    kind: int


def repeated_modules(root: nn.Module) -> tuple[RepeatedModule, ...]:
    """Modules of `root` that look like others, none inside another; chosen such that little would be left to trace.

    Two look alike if classes, children, and names, shapes and dtypes of their tensors agree throughout.
    """
    kinds = _Kinds(root)
    chosen = kinds.chosen()
    return tuple(
        RepeatedModule(module, path, kinds.of[id(module)])
        for path, module in root.named_modules()
        if kinds.of[id(module)] in chosen and id(module) not in kinds.shared
    )


class _Kinds:
    """The kinds of modules in a model, with their sizes and numbers."""

    def __init__(self, root: nn.Module) -> None:
        self.of: dict[int, int] = {}
        self.shared = _shared(root)
        self._numbers: dict[object, int] = {}
        self._children: dict[int, frozenset[int]] = {}
        self._own: dict[int, int] = {}
        self._size: dict[int, int] = {}
        self._callable: dict[int, bool] = {}
        self._best: dict[int, tuple[int, frozenset[int]]] = {}
        self._root = self._visit(root)
        self._count = Counter(self.of.values())

    def _visit(self, module: nn.Module) -> int:
        if id(module) in self.of:
            return self.of[id(module)]
        children = [(name, self._visit(child)) for name, child in module.named_children()]
        tensors = tuple(_tensors(module))
        kind = self._numbers.setdefault((type(module), tensors, tuple(children)), len(self._numbers))
        self.of[id(module)] = kind
        if kind not in self._size:
            self._children[kind] = frozenset(child for _, child in children)
            self._own[kind] = 1 + len(tensors)
            self._size[kind] = self._own[kind] + sum(self._size[child] for _, child in children)
            self._callable[kind] = type(module).forward is not nn.Module.forward
        return kind

    def chosen(self) -> frozenset[int]:
        """The kinds of which one each is to be traced."""
        return self._cheapest(self._root)[1]

    def _cheapest(self, kind: int) -> tuple[int, frozenset[int]]:
        """What tracing all modules of a kind costs at least, and which kinds (itself or inside) then once."""
        if kind not in self._best:
            count = self._count[kind]
            inner = [self._cheapest(child) for child in self._children[kind]]
            best = (
                count * self._own[kind] + sum(cost for cost, _ in inner),
                frozenset[int]().union(*(s for _, s in inner)),
            )
            once = self._size[kind] + REPETITION * count
            self._best[kind] = (once, frozenset({kind})) if self._repeats(kind) and once < best[0] else best
        return self._best[kind]

    def _repeats(self, kind: int) -> bool:
        return self._count[kind] > 1 and self._callable[kind]


def _tensors(module: nn.Module) -> Iterator[tuple[object, ...]]:
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    for name, tensor in own:
        yield name, type(tensor), tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad


def _shared(root: nn.Module) -> frozenset[int]:
    """The modules that have more than one name, and so more than one place in the model."""
    names: defaultdict[int, int] = defaultdict(int)
    for _, module in root.named_modules(remove_duplicate=False):
        names[id(module)] += 1
    return frozenset(module for module, count in names.items() if count > 1)
