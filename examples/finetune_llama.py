"""Fine-tune a Llama from a Hugging Face checkpoint and back to one: 10 steps on one layout, 10 more on another.

    python examples/finetune_llama.py

The model is built on `meta`: no rank ever has more than its share of the weights. The checkpoint that is begun with
would come from a hub; here it is of a small model, made in a moment.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from text import batches, python_topics
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

import autopart

CONTEXT, GLOBAL_BATCH, STEPS = 64, 16, 10
CONFIG = LlamaConfig(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    bos_token_id=None,
    eos_token_id=None,
)
LAYOUTS: tuple[dict[str, Any], ...] = ({"tp": 2}, {"pp": 2, "micro_batch": 2})


def data(steps: int) -> list[dict[str, Tensor]]:
    """Batches as the model takes them: it shifts the labels by itself."""
    found = batches(python_topics(), batch=GLOBAL_BATCH, context=CONTEXT, steps=steps)
    return [{"input_ids": tokens, "labels": tokens.clone()} for tokens, _ in found]


def train(folder: Path, part: int) -> tuple[str, list[float], float]:
    """What every rank does in the first or the second part: the layout, the losses, and the loss in evaluation."""
    own = data(2 * STEPS)[part * STEPS : (part + 1) * STEPS]
    with torch.device("meta"):
        model = LlamaForCausalLM(CONFIG)
    par = autopart.parallelize(model, world=2, global_batch=GLOBAL_BATCH, inputs=own[0], **LAYOUTS[part])
    named = dict(par.named_parameters())  # original names, this rank's pieces
    groups: list[dict[str, Any]] = [
        {"params": [x for name, x in named.items() if "norm" not in name], "weight_decay": 0.1},
        {"params": [x for name, x in named.items() if "norm" in name], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    if part == 0:
        par.load_pretrained(folder / "pretrained")
    else:
        par.load(folder / "checkpoint", optimizer)  # of another layout

    losses = []
    for batch in own:
        losses.append(float(par.train_step(par.shard_batch(batch))))
        par.clip_grad_norm_(1.0)
        optimizer.step()
        optimizer.zero_grad()

    if part == 0:
        par.save(folder / "checkpoint", optimizer)
    else:
        par.save_pretrained(folder / "finetuned")
    evaluated = float(par.evaluate(par.shard_batch(own[-1])))
    plan = par.plan
    layout = f"tp {plan.tp} × pp {plan.pp} × dp {plan.dp}"
    return layout, losses, evaluated


def main(folder: Path) -> None:
    """Both parts, and what transformers says of the result."""
    disable_progress_bar()
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).save_pretrained(folder / "pretrained")
    evaluated = 0.0
    for part in range(len(LAYOUTS)):
        layout, losses, evaluated = autopart.run(train, world=2, args=(folder, part))[0]
        print(f"{layout}: loss {losses[0]:.4f} .. {losses[-1]:.4f}, evaluated {evaluated:.6f}")
    model = LlamaForCausalLM.from_pretrained(folder / "finetuned").eval()
    with torch.no_grad():
        loss = float(model(**data(2 * STEPS)[-1]).loss)
    print(f"the same by transformers, from what was saved: {loss:.6f}")


if __name__ == "__main__":
    if dist.is_torchelastic_launched():
        raise SystemExit("this example makes two jobs of its own: start it with python")
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
