"""How tests keep the state of parameters."""

from functools import cache

from autopart.estimate.memory import Keeping
from cost_models.device import load_device
from cost_models.precision import state
from cost_models.stack import load_stack


@cache
def keeping(optimizer: str = "adamw", zero: int = 0, replicas: int = 1) -> Keeping:
    """autopart's own way with float32 parameters, on an H100."""
    stack = load_stack("autopart")
    own = state("as-built", "float32", optimizer, stack)
    return Keeping(own, 4, zero, replicas, load_device("h100-sxm-80gb"), stack)
