"""At least one example of every op that has a rule, by family; small sizes that two and four ranks can share."""

from autopart.probe.traced import single
from tests.sharding.examples_of_experts import GROUPED
from tests.sharding.examples_of_images import CHANNEL_NORMS, CHANNELS
from tests.sharding.examples_of_layers import ATTENTION, CONVOLUTION, LOSS
from tests.sharding.examples_of_more_numbers import (
    ALONE,
    COMPLEX,
    IN_PLACE,
    MORE_LOSS,
    MORE_RANDOM,
    MORE_REDUCTION,
    RARE,
)
from tests.sharding.examples_of_numbers import ELEMENTWISE, MATMUL, NORMALIZATION, RANDOM, REDUCTION
from tests.sharding.examples_of_products import GROUPED as GROUPED_FORMS
from tests.sharding.examples_of_products import LINEAR_ALGEBRA, PRODUCTS, RECURRENT, SIGNALS
from tests.sharding.examples_of_rare_ops import (
    CUTS,
    DRAWS,
    FILLED,
    FUNCTIONS,
    GRIDS,
    INVERSES,
    MARGINS,
    MATRICES,
    PLACES,
)
from tests.sharding.examples_of_scatters import EMPTIED, LOOKUP, REPETITION, SCATTERING
from tests.sharding.examples_of_shapes import CUTTING, INDEXING, VIEW
from tests.sharding.tensors import t

# What capture leaves out of its graphs, or cannot trace.
UNCAPTURED = {
    "clone": single("aten.clone.default", t(4, 8)),
    "contiguous": single("aten.contiguous.default", t(4, 8)),
    "detach": single("aten.detach.default", t(4, 8)),
    **ALONE,
    **EMPTIED,
    **GROUPED,
    **GROUPED_FORMS,
}

FAMILIES = {
    "elementwise": ELEMENTWISE + RARE + FUNCTIONS,
    "complex": COMPLEX,
    "in place": IN_PLACE + FILLED,
    "random": RANDOM + MORE_RANDOM + DRAWS,
    "matmul": MATMUL + PRODUCTS,
    "linear algebra": LINEAR_ALGEBRA + MATRICES,
    "recurrent": RECURRENT,
    "fourier": SIGNALS + INVERSES,
    "normalization": NORMALIZATION + CHANNEL_NORMS,
    "reduction": REDUCTION + MORE_REDUCTION,
    "view": VIEW,
    "repetition": REPETITION,
    "cutting": CUTTING + CUTS,
    "indexing": INDEXING + LOOKUP + PLACES,
    "scattering": SCATTERING,
    "attention": ATTENTION,
    "convolution": CONVOLUTION + CHANNELS + GRIDS,
    "loss": LOSS + MORE_LOSS + MARGINS,
}
