"""What emitted modules import."""

from autopart.runtime.comm import Comm
from autopart.runtime.grouped_mm import grouped_mm
from autopart.runtime.weights import Weights, constant, parameter

__all__ = ["Comm", "Weights", "constant", "grouped_mm", "parameter"]
