"""Train a small GPT on 4 processes, split by tensors and into a pipeline at once, beside the same model on one process.

Both start it:

    python examples/train_gpt.py
    torchrun --nproc-per-node 4 examples/train_gpt.py
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from gpt import GPT, GPTConfig
from tabulate import tabulate
from text import batches, python_topics
from torch import Tensor
from tqdm import tqdm

import autopart

CONFIG = GPTConfig(layers=4, hidden=128, heads=4, context=64)
STEPS = 20
GLOBAL_BATCH = 16
LEARNING_RATE = 5e-4
EMITTED = Path("emitted/train_gpt")


def data() -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches on every rank."""
    return batches(python_topics(), batch=GLOBAL_BATCH, context=CONFIG.context, steps=STEPS)


def build() -> GPT:
    """The same weights on every rank; in float64, where a difference would be an error and not rounding."""
    torch.manual_seed(0)
    return GPT(CONFIG).double()


def train() -> None:
    """What every rank does."""
    par = autopart.parallelize(
        build(), world=4, tp=2, pp=2, global_batch=GLOBAL_BATCH, micro_batch=4, inputs=next(data())
    )
    optimizer = torch.optim.AdamW(par.parameters(), lr=LEARNING_RATE)
    first = dist.get_rank() == 0
    single = SingleProcess() if first else None
    if first:
        print(par.plan, flush=True)

    rows = []
    bar = tqdm(data(), total=STEPS, desc="training", unit="step", disable=not first)
    for step, batch in enumerate(bar):
        loss = float(par.train_step(par.shard_batch(batch)))
        optimizer.step()
        optimizer.zero_grad()
        if single is not None:
            rows.append((step, loss, reference := single.step(batch), loss - reference))
            bar.set_postfix(loss=f"{loss:.4f}")

    if first:
        shown = [row for row in rows if row[0] % 4 == 0 or row[0] == STEPS - 1]
        headers = ("step", "4 processes", "1 process", "difference")
        print(tabulate(shown, headers=headers, floatfmt=("", ".6f", ".6f", "+.1e")))
        par.emit(EMITTED)
        print(f"\nWhat each stage ran is in {EMITTED.resolve()}, to be read:")
        for path in sorted(EMITTED.rglob("*.py")):
            print(f"  {path} ({len(path.read_text().splitlines())} lines)")


class SingleProcess:
    """The reference: the same model, the same batches, no autopart."""

    def __init__(self) -> None:
        self.model = build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)

    def step(self, batch: tuple[Tensor, Tensor]) -> float:
        """One step on the whole batch; its loss."""
        loss: Tensor = self.model(*batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


if __name__ == "__main__":
    if dist.is_torchelastic_launched():
        train()
    else:
        autopart.run(train, world=4)
