"""What emitted modules import."""

from autopart.runtime.comm import Comm
from autopart.runtime.weights import Weights, constant, parameter

__all__ = ["Comm", "Weights", "constant", "parameter"]
