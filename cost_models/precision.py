"""Precisions: what is computed in which dtype, and the bytes that every parameter element then takes."""

from dataclasses import dataclass

from cost_models.dtype import dtype_bytes
from cost_models.errors import UnknownCostModelError
from cost_models.memory import optimizer_state_bytes
from cost_models.stack import Stack

PRECISIONS = ("as-built", "bf16-mixed", "fp16-mixed", "fp8-mixed")
_COMPUTED = {"bf16-mixed": "bfloat16", "fp16-mixed": "float16", "fp8-mixed": "bfloat16"}
_MASTER_BYTES = 4  # of the float32 copy of every parameter that a mixed precision updates


@dataclass(frozen=True, slots=True)
class State:
    """Bytes for each parameter element: the copy that is computed with, the gradient as accumulated and as sent, what
    only the optimizer holds (its moments, and a mixed precision's float32 copy), and what its step moves in memory.

    `first_bytes`: the first micro-batch of a step saves moving these, where its gradients are taken as they are; a
    mixed precision adds to zeros. `master_bytes`, of the float32 copy, are among the optimizer's.
    """

    weight_bytes: float
    gradient_bytes: float
    reduced_bytes: float
    optimizer_bytes: float
    step_bytes: float
    first_bytes: float = 0.0
    master_bytes: float = 0.0


def check_precision(name: str) -> None:
    """Whether there is such a precision.

    Raises:
        UnknownCostModelError: there is none; the message lists the known ones.
    """
    if name not in PRECISIONS:
        raise UnknownCostModelError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")


def computed_dtype(precision: str, dtype: str) -> str:
    """The dtype in which values of `dtype`, the dtype that most of the model has, are computed."""
    return _COMPUTED.get(precision, dtype)


def state(precision: str, dtype: str, optimizer: str, stack: Stack) -> State:
    """What a parameter element of a model in `dtype` takes, trained with `optimizer` by `stack`.

    Mixed precision keeps float32 parameters and moments beside the half ones (Micikevicius et al. 2018, "Mixed
    precision training"; 16 or 18 bytes in all: Rajbhandari et al. 2020, "ZeRO", section 3.1).
    """
    own = dtype_bytes(dtype)
    if precision == "as-built":
        moments = optimizer_state_bytes(own, optimizer)
        # The parameter, its gradient and the moments are read, all but the gradient written.
        return State(own, own, own, moments, 3 * own + 2 * moments, 3 * own)
    half = dtype_bytes(computed_dtype(precision, dtype))
    held = _MASTER_BYTES + optimizer_state_bytes(_MASTER_BYTES, optimizer)
    return State(
        half, stack.held_gradient_bytes, stack.reduced_bytes, held, stack.optimizer_bytes, master_bytes=_MASTER_BYTES
    )
