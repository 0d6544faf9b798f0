"""Quantities as an engineer writes them: three digits and a unit."""

from collections.abc import Sequence
from math import floor, log10

MIB = 1 << 20
GIB = 1 << 30
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def digits(value: float, significant: int = 3) -> str:
    """`value` with so many significant digits, never in powers of ten: 0.0123, 41.2, 1240."""
    if value == 0:
        return "0"
    decimals = significant - 1 - floor(log10(abs(value)))
    rounded = round(value, decimals)
    # Rounding may carry into another digit: 9.996 is 10.0, not 10.00.
    decimals = significant - 1 - floor(log10(abs(rounded)))
    return f"{rounded:.{max(0, decimals)}f}"


def scaled(value: float, unit: str = "") -> str:
    """`value` with a prefix: "412 TFLOP/s", "183 ktokens/s"."""
    for size, prefix in _LARGE:
        if abs(value) >= size * 0.9995:
            return f"{digits(value / size)} {prefix}{unit}".rstrip()
    return f"{digits(value)} {unit}".rstrip()


def count(value: float) -> str:
    """How many, of things: "70.6 B", "4.19 M", "512"."""
    return str(int(value)) if value == int(value) and abs(value) < 10_000 else scaled(value).replace("G", "B")


def seconds(value: float) -> str:
    """A duration: "22.9 s", "41.2 ms", "31 µs"."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= size * 0.9995:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e-6)} µs"


def percent(fraction: float) -> str:
    """A share of one: "41.7 %"."""
    return "< 0.1 %" if 0 < fraction < 5e-4 else f"{100 * fraction:.1f} %"


def column(values: Sequence[float]) -> list[str]:
    """The numbers of a table's column, all with the decimals that give the largest three digits."""
    largest = max((abs(value) for value in values), default=0.0)
    decimals = min(4, max(0, 2 - floor(log10(largest)))) if largest else 0
    return [f"{value:.{decimals}f}" for value in values]
