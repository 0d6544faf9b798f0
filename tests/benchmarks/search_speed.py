"""How long planning takes: `python -m tests.benchmarks.search_speed`, and `--growth` for a second table.

Each model is planned in a fresh process, with nothing cached. Imports and building the model on `meta` are left out.
The search alone is that of the same process from the graph just captured, again with nothing kept of the first.

The second table shows what the cost grows with: the layers of one model, and the devices of one model.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopart.report.grid import grid


@dataclass(frozen=True)
class Task:
    """A model for a world; `limits_s` are of capture and search, and of the search alone."""

    family: str
    sizes: Mapping[str, int]
    tokens: int
    world: int
    cluster: str
    global_batch: int
    limits_s: tuple[float, float] = (0.0, 0.0)


def model_of(task: Task) -> nn.Module:
    """The model, on `meta`, in bfloat16."""
    from transformers import (
        AutoModelForCausalLM,
        GPT2Config,
        LlamaConfig,
        MixtralConfig,
        PreTrainedConfig,
    )

    config: PreTrainedConfig
    if task.family == "gpt":
        sizes = {"n_embd": task.sizes["hidden"], "n_layer": task.sizes["layers"], "n_head": task.sizes["heads"]}
        config = GPT2Config(n_positions=task.tokens, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **sizes)
    else:
        sizes = {
            "num_hidden_layers": task.sizes["layers"],
            "hidden_size": task.sizes["hidden"],
            "num_attention_heads": task.sizes["heads"],
            "intermediate_size": task.sizes["intermediate"],
            "num_key_value_heads": 8,
            "max_position_embeddings": task.tokens,
        }
        kind = LlamaConfig if task.family == "llama" else MixtralConfig
        config = kind(vocab_size=128256 if task.family == "llama" else 32000, **sizes)
    with torch.device("meta"):
        made: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return made


def llama(layers: int, hidden: int, heads: int, intermediate: int) -> dict[str, int]:
    return {"layers": layers, "hidden": hidden, "heads": heads, "intermediate": intermediate}


def gpt(layers: int, hidden: int, heads: int) -> dict[str, int]:
    return {"layers": layers, "hidden": hidden, "heads": heads}


TASKS: Mapping[str, Task] = {
    "GPT-2 1.5B, 8 H100": Task("gpt", gpt(48, 1600, 25), 1024, 8, "dgx-h100", 512, (4.0, 0.2)),
    "Llama 70B, 64 H100": Task("llama", llama(80, 8192, 64, 28672), 8192, 64, "dgx-h100", 512, (6.0, 0.5)),
    "GPT-3 175B, 512 A100": Task("gpt", gpt(96, 12288, 96), 2048, 512, "dgx-a100", 1536, (6.0, 1.0)),
    "Llama 405B, 16,384 H100": Task("llama", llama(126, 16384, 128, 53248), 8192, 16384, "dgx-h100", 2048, (10.0, 2.0)),
    "GPT 10T, 102,400 H200": Task("gpt", gpt(160, 72000, 160), 2048, 102400, "dgx-h200", 25600, (15.0, 5.0)),
    "Mixtral 8x22B, 256 H100": Task("mixtral", llama(56, 6144, 48, 16384), 4096, 256, "dgx-h100", 1024, (8.0, 1.0)),
}
GROWTH: Mapping[str, Task] = {
    **{
        f"{layers:,} layers, 8 GPUs": Task("llama", llama(layers, 512, 8, 1408), 2048, 8, "dgx-h100", 512)
        for layers in (12, 120, 1200)
    },
    **{
        f"Llama 70B, {world:,} GPUs": Task("llama", llama(80, 8192, 64, 28672), 8192, world, "dgx-h100", 4 * world)
        for world in (64, 640, 6400, 100_000)
    },
}


def measure(task: Task) -> dict[str, Any]:
    """Plan in this process."""
    from autopart.api import plan, prepare
    from autopart.search.degrees import DegreeSearch

    model = model_of(task)
    inputs = {name: torch.empty(2, task.tokens, dtype=torch.long, device="meta") for name in ("input_ids", "labels")}
    start = time.perf_counter()
    prepared = prepare(model, inputs)
    captured_s = time.perf_counter() - start
    found: list[Any] = []
    run = DegreeSearch.run

    def observed(search: DegreeSearch) -> Any:
        found.append(run(search))
        return found[-1]

    DegreeSearch.run = observed  # type: ignore[method-assign]
    start, cpu = time.perf_counter(), time.process_time()
    made = plan(prepared, task.world, cluster=task.cluster, global_batch=task.global_batch)
    search_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {
        "plan": f"{made.tp}x{made.pp}x{made.dp}",
        "whole_s": captured_s + search_s,
        "search_s": search_s,
        "cpu_s": cpu_s,
        "points": found[0].points,
        "evaluated": found[0].evaluated,
    }


def main(tasks: Mapping[str, Task]) -> None:
    """Measure every task in a process of its own, and print a table."""
    rows: list[tuple[Any, ...]] = []
    for name, task in tasks.items():
        command = [sys.executable, "-m", "tests.benchmarks.search_speed", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        limits = [f" (<= {limit:g})" if limit else "" for limit in task.limits_s]
        rows.append(
            (
                name,
                found["plan"],
                f"{found['whole_s']:.1f}{limits[0]}",
                f"{found['search_s']:.2f}{limits[1]}",
                f"{found['cpu_s']:.2f}",
                found["points"],
                found["evaluated"],
                f"{found['points'] / found['search_s']:.0f}",
            )
        )
    headers = ("model", "tp x pp x dp", "capture + search s", "search s", "of CPU", "candidates", "cut", "candidates/s")
    print("\n".join(grid(rows, headers, "llrrrrrr")))


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] != "--growth":
        print(json.dumps(measure({**TASKS, **GROWTH}[sys.argv[1]])))
    else:
        main(GROWTH if sys.argv[1:] else TASKS)
