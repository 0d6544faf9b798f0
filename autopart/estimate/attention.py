"""Attention: seconds of scaled dot-product attention, and the bytes of scores that it keeps, by its kernel."""

from dataclasses import dataclass

from cost_models.compute import attention_s, matmul_s, memory_bound_s
from cost_models.device import Device
from cost_models.dtype import dtype_bytes

# FlashAttention-2 (Dao 2023, section 3.1): the backward pass has 5 matmuls where the forward pass has 2.
BACKWARD = 2.5


@dataclass(frozen=True, slots=True)
class Attention:
    """Seconds of both passes, and the bytes of scores, and of their dropout, kept between them."""

    forward_s: float
    backward_s: float
    kept_bytes: float


@dataclass(frozen=True, slots=True)
class AttentionSizes:
    """One rank's attention: `heads` (times samples) of `queries` x `keys` scores.

    `causal`: only half of the scores count. `moved_bytes` are of query, key, value and output.
    """

    heads: float
    queries: int
    keys: int
    head_size: int
    value_size: int
    causal: bool
    dropout: bool
    moved_bytes: float
    dtype: str

    @property
    def flops(self) -> float:
        """The floating-point operations of the forward pass."""
        full = 2.0 * self.heads * self.queries * self.keys * (self.head_size + self.value_size)
        return full / 2 if self.causal else full


def price_attention(sizes: AttentionSizes, kernel: str, fused: bool, device: Device) -> Attention:
    """Seconds and kept bytes of attention by `kernel`, "math", "flash" or "cudnn".

    The math kernel computes all scores and writes them to memory, where softmax and dropout go over them: what
    Korthikanti et al. 2022 (section 4.1) count as 5 a s / h of 34 + 5 a s / h bytes. `fused`: scale and mask are part
    of its softmax.
    """
    if kernel != "math":
        flash = (sizes.flops, sizes.moved_bytes, sizes.dtype, kernel, sizes.keys)
        back = (sizes.flops * BACKWARD, 2 * sizes.moved_bytes, sizes.dtype, kernel, sizes.keys)
        rows_bytes = 4 * sizes.heads * sizes.queries  # the logarithm of each row's sum, in float32
        return Attention(attention_s(*flash, device), attention_s(*back, device), rows_bytes)
    element = dtype_bytes(sizes.dtype)
    scores = sizes.heads * sizes.queries * sizes.keys
    # In elements: softmax reads and writes; alone, so do scale and mask; dropout writes a byte a score besides.
    passes = 2.0 if fused else 6.0
    masks = (2 * element + 1) * scores if sizes.dropout else 0.0
    forward = memory_bound_s(passes * element * scores, device) + (memory_bound_s(masks, device) if masks else 0.0)
    backward = memory_bound_s((passes + 1) * element * scores, device)
    backward += memory_bound_s(masks, device) if masks else 0.0
    q, k, d, v = sizes.queries, sizes.keys, sizes.head_size, sizes.value_size
    forward += matmul_s(sizes.heads, q, k, d, sizes.dtype, device) + matmul_s(sizes.heads, q, v, k, sizes.dtype, device)
    for m, n, contracted in ((q, k, v), (k, v, q), (q, d, k), (k, d, q)):
        backward += matmul_s(sizes.heads, m, n, contracted, sizes.dtype, device)
    kept = scores * (element + (element + 1 if sizes.dropout else 0))
    return Attention(forward, backward, kept)
