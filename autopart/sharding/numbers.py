"""Numbers: which values of a graph hold the same whole numbers, in whatever order and shape, and which none below 0."""

import sympy

from autopart.ir.graph import Graph, Node
from autopart.ir.size import Size

SORTS = ("aten.sort.default", "aten.sort.stable", "aten.argsort.default", "aten.argsort.stable")
CASTS = frozenset({"aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout"})
# What gives the same elements in another shape, order or dtype.
SAME = """
    alias.default clone.default contiguous.default detach.default view.default reshape.default _unsafe_view.default
    flatten.using_ints unflatten.int unsqueeze.default squeeze.default squeeze.dim squeeze.dims transpose.int
    permute.default
"""
COPIES = CASTS | {f"aten.{name}" for name in SAME.split()}
EXPANSIONS = frozenset({"aten.expand.default", "aten.expand_as.default"})
WHOLE = ("int32", "int64")
EXACT = (*WHOLE, "float32", "float64")  # dtypes that hold the number of any class
# What gives places, which are counted from 0: the output that holds them.
PLACES = {"aten.topk.default": 1, "aten.argmax.default": 0, "aten.argmin.default": 0} | dict.fromkeys(SORTS, -1)
CHOICES = EXPANSIONS | {"aten.slice.Tensor", "aten.select.int", "aten.cat.default", "aten.index.Tensor"}


class Numbers:
    """Follows numbers through `graph`, node after node."""

    def __init__(self, graph: Graph) -> None:
        self._values = graph.values
        self._origins: dict[str, str] = {}
        self._below: dict[str, Size] = {}
        self._classes: dict[str, str] = {}

    def origin(self, name: str) -> str:
        """The first value that has the elements of `name`, each as often."""
        return self._origins.get(name, name)

    def natural(self, name: str) -> bool:
        """Whether no element of `name` is below 0: they are places, counted from 0."""
        return self.origin(name) in self._below

    def below(self, name: str, bound: Size) -> bool:
        """Whether the elements of `name` are from 0 to below `bound`."""
        found = self._below.get(self.origin(name))
        return isinstance(found, int) and isinstance(bound, int) and found <= bound

    def classes(self, name: str) -> str | None:
        """The origin of the numbers of which `name` is the one-hot code, along its last dim."""
        return self._classes.get(name)

    def visit(self, node: Node) -> None:
        """Take `node` into account."""
        first = node.output.name
        if node.op in COPIES and self._exact(node):
            self._origins[first] = self.origin(node.inputs[0])
            if node.op in CASTS and node.inputs[0] in self._classes:
                self._classes[first] = self._classes[node.inputs[0]]
        elif node.op in SORTS and len(node.outputs) > 1:
            self._origins[first] = self.origin(node.inputs[0])
        elif node.op == "aten.one_hot.default":
            self._classes[first] = self.origin(node.inputs[0])
        if node.op in PLACES:
            self._below[node.outputs[PLACES[node.op]].name] = self._places(node)
        elif node.op in CHOICES and all(self.natural(name) for name in self._chosen(node)):
            bounds = {self._below[self.origin(name)] for name in self._chosen(node)}
            self._below[first] = bounds.pop() if len(bounds) == 1 else sympy.oo

    def _places(self, node: Node) -> Size:
        """How many places there are: the size of the dim that is compared."""
        shape, op = self._values[node.inputs[0]].shape, node.op.split(".")[1]
        dim = node.arg(2 if op == "topk" else 1, "dim", None if op in ("argmax", "argmin") else -1)
        return shape[dim] if isinstance(dim, int) and shape and not node.op.endswith("stable") else sympy.oo

    def _exact(self, node: Node) -> bool:
        """Whether all elements survive: a whole number does in every dtype of `EXACT`."""
        before = self._values[self.origin(node.inputs[0])].dtype
        return node.output.dtype == before or (before in WHOLE and node.output.dtype in EXACT)

    @staticmethod
    def _chosen(node: Node) -> tuple[str, ...]:
        """The tensors whose elements are chosen from."""
        return node.inputs if node.op == "aten.cat.default" else node.inputs[:1]

    def permuted(self, result: str, source: str) -> None:
        """Note that `result` has the elements of `source` in another order."""
        self._origins[result] = self.origin(source)
