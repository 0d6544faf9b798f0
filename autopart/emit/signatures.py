"""Signatures: the functions and methods of PyTorch that ATen calls are written as.

Parameters stand in the order of the ATen op. Those that equal their default are left out; those after `*` are written
by name; `_` is one that the function lacks. A key with an overload ("var.dim") goes before one without.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from autopart.emit.signature_tables import FFT, FUNCTIONS, METHODS, METHODS_WITH_PARAMETERS, OPERATORS, RENAMED, SPECIAL


@dataclass(frozen=True)
class Parameter:
    """A parameter: `keyword` says that it is written by name."""

    name: str
    default: str | None
    keyword: bool


@dataclass(frozen=True)
class Signature:
    """A function (`F.linear`), or a `method` of the first argument."""

    callee: str
    method: bool
    parameters: tuple[Parameter, ...]


def parse(text: str) -> Signature:
    """The signature that `F.gelu(x, *, approximate="none")` or `x.sum(*, dim=None)` describes."""
    callee, _, rest = text.removesuffix(")").partition("(")
    method = callee.startswith("x.")
    parameters = [Parameter("input", None, False)] if method else []
    keyword = False
    for item in filter(None, rest.split(", ")):
        if item == "*":
            keyword = True
            continue
        name, _, default = item.partition("=")
        parameters.append(Parameter(name, default or None, keyword))
    return Signature(callee.removeprefix("x."), method, tuple(parameters))


def _table() -> dict[str, Signature]:
    listed = [line.strip() for line in (FUNCTIONS + METHODS_WITH_PARAMETERS).splitlines() if line.strip()]
    texts = {text.partition("(")[0].rpartition(".")[2]: text for text in listed}
    texts |= {name: f"x.{name}()" for name in METHODS.split()} | RENAMED
    texts |= {f"special_{name}": f"torch.special.{name}(input)" for name in SPECIAL.split()}
    texts |= {
        f"fft_{name}": f"torch.fft.{name}({parameters})" for names, parameters in FFT.items() for name in names.split()
    }
    return {name: parse(text) for name, text in texts.items()}


__all__ = ["OPERATORS", "SIGNATURES", "Parameter", "Signature", "parse"]

SIGNATURES: Mapping[str, Signature] = _table()
