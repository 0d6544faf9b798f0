"""Fourier transforms: the dims transformed stay whole, the others are free; all are linear."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.sharding.letters import integers, lettered
from autopart.sharding.rule import Rule

LAST_TWO = ("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2")
LAST = ("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft")


def transform(node: Node, graph: Graph) -> Rule:
    """(x, size or sizes, dim or dims, norm), and shifts (x, dims)."""
    name = node.op.split(".")[1]
    rank = len(node.output.shape)
    shift = name.endswith("shift")
    dims = integers(node.arg(1 if shift else 2, "dim"))
    if not dims:
        sizes = () if shift else integers(node.arg(1, "s"))
        count = 1 if name in LAST else 2 if name in LAST_TWO else len(sizes) or rank
        dims = tuple(range(rank - count, rank))
    touched = {dim % rank for dim in dims}
    letters = lettered(rank, touched)
    output = tuple(None if dim in touched else letter for dim, letter in enumerate(letters))
    return Rule((letters,), (output,), whole=frozenset(f"X{dim}" for dim in touched), linear=frozenset({0}))


def stft(node: Node, graph: Graph) -> Rule:
    """(x, ..., window?): x is (samples, time) or (time,); frames are cut from the whole of time."""
    batch = tuple(f"b{dim}" for dim in range(len(graph.values[node.inputs[0]].shape) - 1))
    window = ((None,),) * (len(node.inputs) - 1)
    output = (*batch, *((None,) * (len(node.output.shape) - len(batch))))
    rule = Rule(((*batch, "T"), *window), (output,), whole=frozenset({"T"}))
    return replace(rule, linear=frozenset({0}))


def istft(node: Node, graph: Graph) -> Rule:
    """(x, ..., window?): x is (samples?, frequencies, frames); frames are added up to the whole of time."""
    batch = tuple(f"b{dim}" for dim in range(len(graph.values[node.inputs[0]].shape) - 2))
    window = ((None,),) * (len(node.inputs) - 1)
    return Rule(((*batch, "F", "T"), *window), ((*batch, None),), whole=frozenset({"F", "T"}), linear=frozenset({0}))


ALONG_DIMS = (*LAST, *LAST_TWO, "fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn", "fft_fftshift", "fft_ifftshift")

RULES = {f"aten.{name}.default": transform for name in ALONG_DIMS} | {
    "aten.stft.default": stft,
    "aten.istft.default": istft,
}
