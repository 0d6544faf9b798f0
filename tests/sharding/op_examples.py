"""At least one example of every op that has a rule, by family; small sizes that two and four ranks can share."""

from autopart.probe.traced import single
from tests.sharding.examples_of_experts import GROUPED
from tests.sharding.examples_of_layers import ATTENTION, CONVOLUTION, LOSS
from tests.sharding.examples_of_numbers import ELEMENTWISE, MATMUL, NORMALIZATION, RANDOM, REDUCTION
from tests.sharding.examples_of_shapes import CUTTING, INDEXING, VIEW
from tests.sharding.tensors import t

# What capture leaves out of its graphs, or makes of other calls.
UNCAPTURED = {
    "clone": single("aten.clone.default", t(4, 8)),
    "contiguous": single("aten.contiguous.default", t(4, 8)),
    "detach": single("aten.detach.default", t(4, 8)),
} | GROUPED

FAMILIES = {
    "elementwise": ELEMENTWISE,
    "random": RANDOM,
    "matmul": MATMUL,
    "normalization": NORMALIZATION,
    "reduction": REDUCTION,
    "view": VIEW,
    "cutting": CUTTING,
    "indexing": INDEXING,
    "attention": ATTENTION,
    "convolution": CONVOLUTION,
    "loss": LOSS,
}
