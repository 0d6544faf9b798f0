"""Strict: refuse a model whose samples are mixed, in place of a note in the plan."""

from autopart.errors import MixingError
from autopart.sharding.batch import BatchSharding


def refuse_mixing(model: str, batch: BatchSharding) -> None:
    """Whether each part of the batch gives its part of the loss of `model`: what `strict=True` asks for.

    What every tensor-parallel rank computes whole is no matter of strictness: it costs time, and changes no number.

    Raises:
        MixingError: samples are mixed, or may be; all nodes that do it are listed, line by line.
    """
    if not batch.mixing:
        return
    lines: dict[str, list[str]] = {}
    for item in batch.mixing:
        what = "counts samples, from 0 in every micro-batch" if item.counts else "mixes samples"
        what = f"gives {item.changes} a new value with every micro-batch" if item.changes else what
        lines.setdefault(item.location, []).append(f"{item.node} ({item.op}) {what}")
    count = "a place" if len(lines) == 1 else f"{len(lines)} places"
    text = [f"strict=True refuses {model}, which mixes the samples of a batch at {count} in its code:"]
    for number, (location, nodes) in enumerate(lines.items(), 1):
        text += [f"{number}. {location}", *(f"   {node}" for node in nodes)]
    text.append(
        "There, micro-batches and replicas compute something else than the whole batch would: write it sample by "
        "sample (a group or layer norm for a batch norm), or leave strict out, and each micro-batch is computed by "
        "itself"
    )
    raise MixingError("\n".join(text))
