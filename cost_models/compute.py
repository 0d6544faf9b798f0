"""Seconds of one kernel on one device."""

from cost_models.device import Device
from cost_models.dtype import dtype_bytes

# Below this many steps of k a slice, splitting the sum costs more in partial results than it gains in parallelism.
_MIN_SPLIT_K = 512

# Speed by how far the row start falls short of full alignment, as a power of two: 0 is aligned, 3 a 16-byte multiple
# where 128 is wanted (the least that asynchronous copies take), 4 and more below that, where kernels read element by
# element. Estimates, in the shape of the curves by largest power of two in Anthony et al. 2024, "The case for
# co-designing model architectures with hardware" (A100).
_MISALIGNED_SPEED = (1.0, 0.95, 0.85, 0.72, 0.5, 0.4, 0.33, 0.3)


def matmul_s(
    batch: float,
    m: float,
    n: float,
    k: float,
    dtype: str,
    device: Device,
    *,
    k_is_contiguous: bool = True,
) -> float:
    """Seconds of `batch` matmuls (m, k) @ (k, n), each operand read and the result written once.

    The library covers the output with equal tiles, one multiprocessor a tile, in waves; partly filled tiles and the
    partly filled last wave cost like full ones (NVIDIA, "Matrix Multiplication Background User's Guide", DU-09799,
    sections 3.1 and 3.2). It picks the best of its tile shapes, and splits k where there are too few tiles (split-K).
    The result is the greater of that and the time to move the operands (roofline: Williams et al. 2009), plus a launch.

    Args:
        batch: number of independent matmuls; if this or another size is zero, the time is a launch.
        m: rows of the first operand and of the result.
        n: columns of the second operand and of the result.
        k: the size that is summed over.
        dtype: of the operands and the result, a torch name; "float32" does not use tf32 (torch's default), "tf32" does.
        device: it runs on.
        k_is_contiguous: whether k, not m, is the inner dim of the first operand, whose alignment then matters. False
            for a weight gradient: there k counts tokens, and any number of them is as good.

    Raises:
        UnknownCostModelError: unknown dtype, or one that the device cannot multiply.
    """
    element_bytes = dtype_bytes(dtype)
    outputs = batch * m * n
    if outputs * k <= 0:
        return device.kernel_launch_s
    bytes_per_s = device.memory_bandwidth_bytes_per_s * device.bandwidth_fraction
    arithmetic = device.arithmetic(dtype)
    speed = arithmetic.peak_flops_per_s * arithmetic.matmul_fraction
    if element_bytes <= 2:  # wider types do not go through the tensor-core copies that want alignment
        inner = k if k_is_contiguous else m
        speed *= min(_alignment_speed(n * element_bytes, device), _alignment_speed(inner * element_bytes, device))
    workers = device.multiprocessors
    prologue = device.matmul_prologue_k
    worker_flops_per_s = speed / workers
    best_s = float("inf")
    for tile in device.matmul_tiles:
        rows, columns = tile.rows, tile.columns
        tiles = batch * -(-m // rows) * -(-n // columns)
        k_step_s = 2 * rows * columns / (worker_flops_per_s * tile.fraction)
        best_s = min(best_s, -(-tiles // workers) * (k + prologue) * k_step_s)
        # Not rounded to whole slices: a longer sum is never faster.
        slices = min(workers // tiles, k / _MIN_SPLIT_K)
        if slices > 1:
            # Each slice leaves a float32 partial result, written once and read once.
            partial_s = 8 * outputs * slices / bytes_per_s
            best_s = min(best_s, (k / slices + prologue) * k_step_s + partial_s)
    moved_bytes = (batch * k * (m + n) + outputs) * element_bytes
    return device.kernel_launch_s + max(best_s, moved_bytes / bytes_per_s)


def least_matmul_s(flops: float, dtype: str, device: Device) -> float:
    """Seconds that no matmul of so many floating-point operations takes less than: `matmul_s` with full tiles only."""
    arithmetic = device.arithmetic(dtype)
    fastest = max(tile.fraction for tile in device.matmul_tiles)
    return device.kernel_launch_s + flops / (arithmetic.peak_flops_per_s * arithmetic.matmul_fraction * fastest)


def memory_bound_s(moved_bytes: float, device: Device) -> float:
    """Seconds of one kernel that reads and writes `moved_bytes` of device memory and computes little.

    The launch plus bytes over the attainable bandwidth (the memory roof of Williams et al. 2009).
    """
    return device.kernel_launch_s + moved_bytes / (device.memory_bandwidth_bytes_per_s * device.bandwidth_fraction)


def attention_s(flops: float, moved_bytes: float, dtype: str, kernel: str, keys: float, device: Device) -> float:
    """Seconds of one fused attention kernel, which keeps the scores on chip (Dao 2023, FlashAttention-2).

    Args:
        flops: actually computed; for a causal mask that is about half of the full square.
        moved_bytes: read and written in device memory: query, key, value, output, and in the backward their gradients.
        dtype: a torch name.
        kernel: "flash" or "cudnn".
        keys: how many there are. Short rows pay for starting and for the blocks on the diagonal.
        device: it runs on; attention over many keys sustains its `attention_fraction(kernel)` of peak.

    Raises:
        UnknownCostModelError: the device has no such arithmetic.
    """
    speed = device.attention_fraction(kernel) * keys / (keys + device.attention_ramp_keys)
    compute_s = flops / (device.peak(dtype) * speed)
    memory_s = moved_bytes / (device.memory_bandwidth_bytes_per_s * device.bandwidth_fraction)
    return device.kernel_launch_s + max(compute_s, memory_s)


def _alignment_speed(row_bytes: float, device: Device) -> float:
    wanted = device.matmul_alignment_bytes
    size = int(row_bytes)
    if size % wanted == 0:
        return 1.0
    # The lowest set bit is the largest power of two that divides the row.
    shortfall = (wanted // (size & -size)).bit_length() - 1
    return _MISALIGNED_SPEED[max(0, min(shortfall, len(_MISALIGNED_SPEED) - 1))]
