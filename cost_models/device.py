"""One accelerator, or one process on a CPU, in numbers."""

from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path

from cost_models.catalogue import file_names, find_file
from cost_models.errors import UnknownCostModelError
from cost_models.toml_table import TomlTable

# FlashAttention-2 with a causal mask and heads of 128 goes from about 99 TFLOP/s at 512 keys to 133, 155 and 189 at
# 1024, 2048 and 16384 (Dao 2023, figure 4, A100).
ATTENTION_RAMP_KEYS = 512.0
_FOLDER = Path(__file__).parent / "devices"
_REQUIRED_DTYPES = ("float64", "float32", "float16", "bfloat16")
_OPTIONAL_DTYPES = ("tf32", "float8")
_FIGURES = (
    "memory_bytes",
    "context_bytes",
    "fragmentation_fraction",
    "memory_bandwidth_bytes_per_s",
    "bandwidth_fraction",
    "kernel_launch_s",
    "multiprocessors",
    "speed_spread",
    "peak_flops_per_s",
    "matmul_fraction",
    "matmul_prologue_k",
    "matmul_alignment_bytes",
    "matmul_tile",
    "attention_fraction",
)


@dataclass(frozen=True, slots=True)
class MatmulTile:
    """A shape of output tile that the matmul library has a kernel for.

    `fraction` is the speed of this kernel on full tiles, relative to the best one.
    """

    rows: int
    columns: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Multiplying and adding in one dtype.

    `peak_flops_per_s` is dense, from the data sheet; `matmul_fraction` of it is sustained, under the power limit, by
    the best tile on a large aligned matmul.
    """

    dtype: str
    peak_flops_per_s: float
    matmul_fraction: float


@dataclass(frozen=True, slots=True)
class Device:
    """What one device can do; `sources` says where each figure is from.

    Attributes:
        memory_bytes: what torch reports as total, which is below the number in the device's name.
        context_bytes: taken before the first tensor: driver context, kernels, library workspaces and buffers.
        fragmentation_fraction: the part of `memory_bytes` that the caching allocator cannot hand out.
        memory_bandwidth_bytes_per_s: peak of the data sheet; kernels sustain `bandwidth_fraction` of it.
        kernel_launch_s: added to every kernel: the gap before it and its ramp up and down.
        multiprocessors: workers that take one matmul tile each at a time.
        arithmetics: by dtype; "float32" is without tf32, torch's default.
        matmul_prologue_k: the fixed cost of a tile (first loads, last store) as so many steps of k.
        matmul_alignment_bytes: rows that start at a multiple of this are read at full speed.
        speed_spread: standard deviation of the speed of devices of this kind, relative to it: the slowest of many sets
            the pace of all (Sinha et al. 2022, "Not all GPUs are created equal").
        checked: whether predictions for it were compared with published runs (docs/fidelity.md).
        attention_fractions: by kernel, of peak, sustained over many keys, forward and backward together.
        attention_ramp_keys: keys at which fused attention reaches half of that.
    """

    name: str
    memory_bytes: int
    context_bytes: int
    fragmentation_fraction: float
    memory_bandwidth_bytes_per_s: float
    bandwidth_fraction: float
    kernel_launch_s: float
    multiprocessors: int
    speed_spread: float
    arithmetics: tuple[Arithmetic, ...]
    matmul_prologue_k: int
    matmul_alignment_bytes: int
    matmul_tiles: tuple[MatmulTile, ...]
    attention_fractions: tuple[tuple[str, float], ...]
    sources: tuple[tuple[str, str], ...]
    checked: bool = False
    attention_ramp_keys: float = ATTENTION_RAMP_KEYS

    def arithmetic(self, dtype: str) -> Arithmetic:
        """How the device multiplies `dtype`, a torch name, or "tf32" for float32 with tf32 allowed.

        All float8 formats are alike; whole numbers, complex numbers and tf32 without tensor cores run like float32.

        Raises:
            UnknownCostModelError: the device has no such arithmetic (float8 on an A100).
        """
        for known in self.arithmetics:
            if known.dtype == dtype:
                return known
        if dtype.startswith("float8_"):
            return self.arithmetic("float8")
        if dtype == "complex128":
            return self.arithmetic("float64")
        if dtype == "tf32" or dtype.startswith(("int", "uint", "bool", "complex")):
            return self.arithmetic("float32")
        known_dtypes = ", ".join(known.dtype for known in self.arithmetics)
        raise UnknownCostModelError(f"device {self.name!r} has no {dtype!r} arithmetic; it has {known_dtypes}")

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s of dense matmuls in `dtype`; raises like `arithmetic`."""
        return self.arithmetic(dtype).peak_flops_per_s

    def pace(self, devices: int) -> float:
        """By what factor the slowest of so many devices is slower than one of them is on average.

        The expected largest of n normal variates is about sqrt(2 ln n) deviations (Gumbel 1958, "Statistics of
        extremes", 4.2).
        """
        return 1.0 + self.speed_spread * sqrt(2 * log(devices)) if devices > 1 else 1.0

    def attention_fraction(self, kernel: str) -> float:
        """Of peak, what attention by `kernel` sustains; torch's own, FlashAttention-2, where the file has no other."""
        known = dict(self.attention_fractions)
        return known.get(kernel, known["flash"])


def device_names() -> tuple[str, ...]:
    """The names that `load_device` knows: the files of `cost_models/devices`, sorted."""
    return file_names(_FOLDER)


def load_device(name_or_path: str | Path) -> Device:
    """Read a device by its name, or from a path that ends in `.toml`.

    Raises:
        UnknownCostModelError: there is no such device.
        CostModelFileError: the file has a missing, unknown or unfit key.
    """
    table = TomlTable.read(find_file(name_or_path, _FOLDER, "device"))
    arithmetics = table.table("arithmetic")
    own_ramp = table.has("attention_ramp_keys")
    dtypes = (*_REQUIRED_DTYPES, *(dtype for dtype in _OPTIONAL_DTYPES if arithmetics.has(dtype)))
    device = Device(
        name=table.text("name"),
        memory_bytes=table.whole("memory_bytes"),
        context_bytes=table.whole("context_bytes"),
        fragmentation_fraction=table.fraction("fragmentation_fraction"),
        memory_bandwidth_bytes_per_s=table.number("memory_bandwidth_bytes_per_s"),
        bandwidth_fraction=table.fraction("bandwidth_fraction"),
        kernel_launch_s=table.number("kernel_launch_s"),
        multiprocessors=table.whole("multiprocessors"),
        speed_spread=table.number("speed_spread", least=0.0, at_most=0.5),
        arithmetics=tuple(_arithmetic(dtype, arithmetics.table(dtype)) for dtype in dtypes),
        matmul_prologue_k=table.whole("matmul_prologue_k"),
        matmul_alignment_bytes=table.whole("matmul_alignment_bytes"),
        matmul_tiles=tuple(_tile(tile) for tile in table.tables("matmul_tile")),
        attention_fractions=_attention_fractions(table.table("attention_fraction")),
        attention_ramp_keys=(table.number("attention_ramp_keys", least=0.0) if own_ramp else ATTENTION_RAMP_KEYS),
        sources=table.sources((*_FIGURES, "attention_ramp_keys") if own_ramp else _FIGURES),
        checked=table.truth("checked") if table.has("checked") else False,
    )
    arithmetics.finish()
    table.finish()
    if device.context_bytes + device.fragmentation_fraction * device.memory_bytes >= device.memory_bytes:
        raise table.error("context_bytes", "and 'fragmentation_fraction' leave nothing of 'memory_bytes'")
    return device


def _attention_fractions(table: TomlTable) -> tuple[tuple[str, float], ...]:
    kernels = ("flash", *(kernel for kernel in ("flash1", "cudnn") if table.has(kernel)))
    fractions = tuple((kernel, table.fraction(kernel)) for kernel in kernels)
    table.finish()
    return fractions


def _arithmetic(dtype: str, table: TomlTable) -> Arithmetic:
    arithmetic = Arithmetic(dtype, table.number("peak_flops_per_s"), table.fraction("matmul_fraction"))
    table.finish()
    return arithmetic


def _tile(table: TomlTable) -> MatmulTile:
    tile = MatmulTile(table.whole("rows"), table.whole("columns"), table.fraction("fraction"))
    table.finish()
    return tile
