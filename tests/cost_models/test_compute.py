"""Kernels: plausible on known shapes, never beyond the hardware, and shaped as matmul libraries are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.compute import attention_s, least_matmul_s, matmul_s, memory_bound_s
from cost_models.device import device_names, load_device
from cost_models.dtype import dtype_bytes
from cost_models.errors import UnknownCostModelError

DEVICES = {name: load_device(name) for name in device_names()}
H100 = DEVICES["h100-sxm-80gb"]
A100 = DEVICES["a100-sxm-80gb"]
sizes = st.integers(1, 20000)


@given(
    st.sampled_from(sorted(DEVICES)), st.integers(1, 64), sizes, sizes, sizes, st.sampled_from(("bfloat16", "float32"))
)
def test_no_matmul_takes_less_than_the_least(name: str, batch: int, m: int, n: int, k: int, dtype: str) -> None:
    least_s = least_matmul_s(2.0 * batch * m * n * k, dtype, DEVICES[name])
    assert least_s <= matmul_s(batch, m, n, k, dtype, DEVICES[name]) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("h100-sxm-80gb", 550e12, 800e12),
        ("a100-sxm-80gb", 220e12, 290e12),
        ("b200-sxm-180gb", 1500e12, 1745e12),
    ],
)
def test_a_large_matmul_is_plausible(name: str, low: float, high: float) -> None:
    """8192 cubed in bfloat16, against published measurements."""
    assert low < 2 * 8192**3 / matmul_s(1, 8192, 8192, 8192, "bfloat16", DEVICES[name]) < high


@given(
    st.sampled_from(sorted(DEVICES)), st.integers(1, 64), sizes, sizes, sizes, st.sampled_from(["bfloat16", "float32"])
)
def test_never_beyond_the_roofline(name: str, batch: int, m: int, n: int, k: int, dtype: str) -> None:
    """Neither peak FLOP/s nor the data sheet's bandwidth is beaten, split-K included."""
    device = DEVICES[name]
    seconds = matmul_s(batch, m, n, k, dtype, device)
    moved_bytes = batch * (m * k + k * n + m * n) * dtype_bytes(dtype)
    assert seconds > device.kernel_launch_s
    assert seconds >= 2 * batch * m * n * k / device.peak(dtype)
    assert seconds >= moved_bytes / device.memory_bandwidth_bytes_per_s


@given(st.sampled_from(sorted(DEVICES)), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_more_rows_or_columns_are_not_faster(name: str, m: int, n: int, k: int) -> None:
    """Monotonic in every size, at aligned sizes."""
    device = DEVICES[name]
    m, n, k = 128 * m, 128 * n, 128 * k
    seconds = matmul_s(1, m, n, k, "bfloat16", device)
    assert seconds <= matmul_s(1, m + 128, n, k, "bfloat16", device)
    assert seconds <= matmul_s(1, m, n + 128, k, "bfloat16", device)
    assert seconds <= matmul_s(2, m, n, k, "bfloat16", device)
    # A split of k can only become possible as k grows, so allow for the step it takes.
    assert seconds <= 1.01 * matmul_s(1, m, n, 2 * k, "bfloat16", device)


def test_waves_are_quantized() -> None:
    """One tile more than a wave holds costs much more than the flops it adds."""
    full, over = ((H100.multiprocessors + extra) * 128 for extra in (0, 1))
    full_s = matmul_s(1, full, 256, 8192, "bfloat16", H100)
    over_s = matmul_s(1, over, 256, 8192, "bfloat16", H100)
    assert over_s > 1.1 * full_s
    assert matmul_s(1, full - 1, 256, 8192, "bfloat16", H100) == pytest.approx(full_s, rel=1e-3)


def test_tiles_are_quantized() -> None:
    """A partly filled tile costs like a full one."""
    one_more_s, full_s = (matmul_s(1, 8192, n, 8192, "float32", H100) for n in (8193, 8256))
    assert one_more_s == full_s


def test_few_tiles_split_k() -> None:
    """A weight gradient of a small layer over many tokens still fills the device."""
    seconds = matmul_s(1, 1024, 1024, 65536, "bfloat16", H100)
    assert 2 * 1024 * 1024 * 65536 / seconds > 0.5 * H100.peak("bfloat16")


@pytest.mark.parametrize("shape", [(4096, 50257, 4096), (4096, 4096, 14396)])
def test_misaligned_is_slower(shape: tuple[int, int, int]) -> None:
    """GPT-2's vocabulary of 50257 is slower than 50304, by far more than the flops."""
    m, n, k = shape
    aligned = matmul_s(1, m, -(-n // 64) * 64, -(-k // 64) * 64, "bfloat16", A100)
    assert matmul_s(1, m, n, k, "bfloat16", A100) > 1.3 * aligned


def test_less_aligned_is_not_faster() -> None:
    """Down the powers of two, and the sum over tokens does not care."""
    seconds = [matmul_s(1, 4096, 4096 + extra, 4096, "bfloat16", A100) for extra in (64, 32, 16, 8, 4, 2, 1)]
    assert seconds == sorted(seconds)
    odd, even = (matmul_s(1, 4096, 4096, tokens, "bfloat16", A100, k_is_contiguous=False) for tokens in (8191, 8192))
    assert odd <= even


def test_float32_does_not_use_tf32() -> None:
    """As torch by default; tf32 has to be asked for."""
    slow, fast = (matmul_s(1, 4096, 4096, 4096, dtype, A100) for dtype in ("float32", "tf32"))
    assert slow > 5 * fast
    assert 2 * 4096**3 / slow < 19.5e12


def test_float8_where_there_is_any() -> None:
    """Faster than bfloat16 on an H100, an error on an A100, which lists what it has."""
    float8_s = matmul_s(1, 8192, 8192, 8192, "float8_e4m3fn", H100)
    assert float8_s < 0.7 * matmul_s(1, 8192, 8192, 8192, "bfloat16", H100)
    with pytest.raises(UnknownCostModelError, match=r"a100-sxm-80gb.*float8.*bfloat16"):
        matmul_s(1, 64, 64, 64, "float8_e5m2", A100)


def test_dtypes() -> None:
    """Sizes by torch's names."""
    assert [dtype_bytes(name) for name in ("float64", "float32", "bfloat16", "float8_e4m3fn", "int64", "bool")] == [
        8, 4, 2, 1, 8, 1,
    ]  # fmt: skip
    with pytest.raises(UnknownCostModelError, match=r"'torch.float32'; known: .*bfloat16"):
        dtype_bytes("torch.float32")


@pytest.mark.parametrize("shape", [(0, 8, 8, 8), (1, 0, 8, 8), (1, 8, 0, 8), (1, 8, 8, 0)])
def test_an_empty_matmul_is_a_launch(shape: tuple[int, int, int, int]) -> None:
    """No division by zero."""
    assert matmul_s(*shape, "bfloat16", H100) == H100.kernel_launch_s


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_memory_bound(name: str) -> None:
    """A launch when empty, below the data sheet's bandwidth, linear above the launch."""
    device = DEVICES[name]
    assert memory_bound_s(0, device) == device.kernel_launch_s
    assert memory_bound_s(2**30, device) > 2**30 / device.memory_bandwidth_bytes_per_s
    one, two = (memory_bound_s(size, device) - device.kernel_launch_s for size in (2**30, 2**31))
    assert two == pytest.approx(2 * one)


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_attention(name: str) -> None:
    """Bound by compute when there is much of it, by memory when there is none."""
    device = DEVICES[name]
    for kernel in ("flash1", "flash", "cudnn"):
        seconds = attention_s(1e13, 1e6, "float16", kernel, 2**20, device)
        speed = 1e13 / seconds / device.peak("float16")
        assert speed == pytest.approx(device.attention_fraction(kernel), rel=1e-2)
        assert attention_s(1e13, 1e6, "float16", kernel, 512, device) > 1.9 * seconds
        assert attention_s(0, 1e9, "float16", kernel, 2048, device) == memory_bound_s(1e9, device)
