"""Real text without a download: the help topics that ship with every CPython, one token a byte."""

from collections.abc import Iterator
from pydoc_data.topics import topics

import torch
from torch import Tensor


def python_topics() -> bytes:
    """What `help()` knows of Python's own language: some 450 kB of English and examples."""
    return "\n".join(text for _, text in sorted(topics.items())).encode()


def batches(text: bytes, *, batch: int, context: int, steps: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `steps` pairs (tokens, labels), each (`batch`, `context`), cut from `text` at places chosen by `seed`."""
    if len(text) <= context:
        raise ValueError(f"a text of {len(text)} bytes is too short for a context of {context}")
    data = torch.tensor(list(text), dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(data) - context, (batch, 1), generator=generator)
        windows = data[starts + torch.arange(context + 1)]
        yield windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
