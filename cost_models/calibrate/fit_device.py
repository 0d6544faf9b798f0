"""Fit a device: the figures with which the formulas of `compute` come nearest to what was measured."""

from dataclasses import replace
from itertools import product

from cost_models.calibrate.error import Fit, fit_of, nearest
from cost_models.calibrate.samples import Heads, Product, Samples
from cost_models.compute import attention_s, matmul_s
from cost_models.device import Arithmetic, Device
from cost_models.dtype import dtype_bytes

# FlashAttention-2's backward pass has 5 products where the forward pass has 2 (Dao 2023, section 3.1).
_BACKWARD = 2.5
_PROLOGUES_K = (1, 4, 8, 16, 32, 64, 128, 256)
_RAMPS_KEYS = (0, 8, 16, 32, 64, 128, 256, 512, 1024)
# Rates that are tried, relative to the best seen: kernels of unlimited size would run at up to 3 times that.
_RATES = tuple(3.0 * 1.01**-step for step in range(400))
_LARGE_BYTES = 2**20  # moves of so many bytes take far longer than their launch


def fit_device(
    samples: Samples, name: str, base: Device, source: str, product_speed: float = 1.0
) -> tuple[Device, tuple[Fit, ...]]:
    """The device that was measured, and how near the formulas then come.

    Args:
        samples: merged, of all processes.
        name: of the new device.
        base: gives what is not measured: tiles, alignment, fragmentation, and dtypes without samples.
        source: what is written beside every figure that was measured.
        product_speed: of the library that was measured, relative to the newest, which files of devices are for.
    """
    device = replace(base, name=name, checked=False)
    device = replace(device, memory_bytes=samples.memory_bytes, context_bytes=samples.context_bytes)
    device = replace(device, kernel_launch_s=samples.launch_s)
    fits = []

    large = [move for move in samples.moves if move.moved_bytes >= _LARGE_BYTES]
    sustained = sum(move.moved_bytes for move in large) / sum(move.seconds for move in large)
    peak = max(sustained, *(move.moved_bytes / move.seconds for move in large if move.op == "copy"))
    device = replace(device, memory_bandwidth_bytes_per_s=peak, bandwidth_fraction=sustained / peak)
    fits.append(fit_of("memory", [move.moved_bytes / sustained for move in large], [move.seconds for move in large]))

    dtypes = list(dict.fromkeys(sample.dtype for sample in samples.products))
    dtypes.sort(key=lambda dtype: -sum(sample.dtype == dtype for sample in samples.products))
    for index, dtype in enumerate(dtypes):  # the first has the most samples, and decides what all have in common
        own = [sample for sample in samples.products if sample.dtype == dtype]
        prologues = _PROLOGUES_K if index == 0 else (device.matmul_prologue_k,)
        device, fit = _fit_products(own, device, prologues, product_speed)
        fits.append(fit)
    if samples.heads:
        device, fit = _fit_attention(samples.heads, device)
        fits.append(fit)
    measured = {
        "memory_bytes": "The machine's memory, shared evenly among the processes",
        "context_bytes": "Taken by a process before its first tensor",
        "memory_bandwidth_bytes_per_s": "Copies, the fastest of at least 1 MiB",
        "bandwidth_fraction": "Elementwise operators, layer norm and cross-entropy, forward and backward, together",
        "kernel_launch_s": "A transformer layer on tensors of a few elements, forward and backward, a kernel",
        "peak_flops_per_s": "The fastest product, or the rate that the fit gives to unlimited ones",
        "matmul_fraction": "Products of linear layers, forward and backward: the fit of the mean ratio",
        "matmul_prologue_k": "The same, of the dtype with the most samples",
        "attention_fraction": "Causal attention, forward and backward",
        "attention_ramp_keys": "The same, over numbers of keys",
    }
    kept = dict(base.sources)
    sources = {key: f"As in {base.name}: {text}" for key, text in kept.items()}
    sources |= {key: f"{text}; {source}" for key, text in measured.items()}
    return replace(device, sources=tuple(sources.items())), tuple(fits)


def _fit_products(own: list[Product], device: Device, prologues: tuple[int, ...], speed: float) -> tuple[Device, Fit]:
    dtype = own[0].dtype
    fastest = max(6.0 * s.m * s.n * s.k / s.seconds for s in own) / speed

    def made(candidate: tuple[int, float]) -> Device:
        prologue, rate = candidate
        peak = max(1.0, rate) * fastest
        new = Arithmetic(dtype, peak, rate * fastest / peak)
        arithmetics = tuple(new if known.dtype == dtype else known for known in device.arithmetics)
        return replace(device, arithmetics=arithmetics, matmul_prologue_k=prologue)

    def predict(candidate: tuple[int, float]) -> list[float]:
        return [products_s(sample, made(candidate)) / speed for sample in own]

    measured = [sample.seconds for sample in own]
    best = nearest(product(prologues, _RATES), predict, measured)
    return made(best), fit_of(f"products, {dtype}", predict(best), measured)


def products_s(sample: Product, device: Device) -> float:
    """Seconds of a linear layer's three products, by the formulas."""
    m, n, k = sample.m, sample.n, sample.k
    forward = matmul_s(1, m, n, k, sample.dtype, device)
    of_input = matmul_s(1, m, k, n, sample.dtype, device)
    return forward + of_input + matmul_s(1, k, n, m, sample.dtype, device, k_is_contiguous=False)


def _fit_attention(own: tuple[Heads, ...], device: Device) -> tuple[Device, Fit]:
    def made(candidate: tuple[int, float]) -> Device:
        ramp, fraction = candidate
        others = tuple(known for known in device.attention_fractions if known[0] != "flash")
        return replace(device, attention_ramp_keys=ramp, attention_fractions=(("flash", fraction), *others))

    def predict(candidate: tuple[int, float]) -> list[float]:
        return [heads_s(sample, made(candidate)) for sample in own]

    measured = [sample.seconds for sample in own]
    best = nearest(product(_RAMPS_KEYS, (rate for rate in _RATES if rate <= 1.0)), predict, measured)
    return made(best), fit_of("attention", predict(best), measured)


def heads_s(sample: Heads, device: Device) -> float:
    """Seconds of causal attention, forward and backward, by the formulas."""
    flops = 2.0 * sample.heads * sample.keys**2 * sample.size  # two products, of which half the scores count
    moved = 4 * sample.heads * sample.keys * sample.size * dtype_bytes(sample.dtype)
    forward = attention_s(flops, moved, sample.dtype, "flash", sample.keys, device)
    return forward + attention_s(_BACKWARD * flops, 2 * moved, sample.dtype, "flash", sample.keys, device)
