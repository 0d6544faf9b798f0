"""Every example of an op with a rule as a node of a captured graph; captured once, for all tests of a process."""

from tests.sharding.captured import nodes
from tests.sharding.op_examples import FAMILIES, UNCAPTURED

CASES = tuple(nodes(FAMILIES, UNCAPTURED))
