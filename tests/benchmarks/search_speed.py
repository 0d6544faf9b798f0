"""How long planning takes: `python -m tests.benchmarks.search_speed`; `--write` makes docs/search.md of it.

Each model is planned twice, each time in a fresh process with nothing cached: once from the model, with torch; once
from the graph that was saved then, without. Imports are left out of both, and so is building the model on `meta`. CPU
seconds stand beside those of the clock, which others who use the machine make longer.

The second table shows what the cost grows with: the layers of one model, and the devices of one model.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from autopart.report.grid import grid

if TYPE_CHECKING:  # what plans from a saved graph must not import it
    from torch import nn


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


def model_of(task: Task) -> "nn.Module":
    """The model, on `meta`, in bfloat16."""
    import torch
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
        f"Llama 8B, {world:,} GPUs": Task("llama", llama(32, 4096, 32, 14336), 8192, world, "dgx-h100", 4 * world)
        for world in (8, 64, 640, 6400, 100_000)
    },
}


def measure_whole(name: str, file: str) -> dict[str, Any]:
    """Capture and plan in this process; save the graph."""
    import torch

    from autopart.api import plan, prepare

    task = {**TASKS, **GROWTH}[name]
    model = model_of(task)
    inputs = {name: torch.empty(2, task.tokens, dtype=torch.long, device="meta") for name in ("input_ids", "labels")}
    clock = Clock()
    prepared = prepare(model, inputs)
    plan(prepared, task.world, cluster=task.cluster, global_batch=task.global_batch)
    measured = {"whole_s": clock.wall_s, "whole_cpu_s": clock.cpu_s}
    prepared.save(file)
    return measured


def measure_search(name: str, file: str) -> dict[str, Any]:
    """Plan from a saved graph in this process."""
    from autopart.planning import Pins, make_plan
    from autopart.search.degrees import DegreeSearch
    from autopart.sharding.load_ruled import load_ruled

    task = {**TASKS, **GROWTH}[name]
    found: list[Any] = []
    run = DegreeSearch.run

    def observed(search: DegreeSearch) -> Any:
        found.append(run(search))
        return found[-1]

    DegreeSearch.run = observed  # type: ignore[method-assign]
    clock = Clock()
    ruled = load_ruled(file)
    loaded_cpu_s = clock.cpu_s
    made = make_plan(ruled, task.world, task.cluster, task.global_batch, Pins())
    return {
        "plan": f"{made.tp} × {made.pp} × {made.dp}",
        "search_s": clock.wall_s,
        "search_cpu_s": clock.cpu_s,
        "load_cpu_s": loaded_cpu_s,
        "points": found[0].points,
        "evaluated": found[0].evaluated,
        "blocks": len(ruled.folded.graph.nodes),
        "torch": "torch" in sys.modules,
    }


class Clock:
    """Seconds since it was made, of the wall's clock and of this process."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._wall_s

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._cpu_s


def measured(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Both measurements of every task, each in a process of its own."""
    found: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        file = f"{folder}/graph.json"
        for name in names:
            print(name, file=sys.stderr)
            found[name] = _alone("whole", name, file) | _alone("search", name, file)
    return found


def _alone(what: str, name: str, file: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.search_speed", what, name, file]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def speed_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Times beside the bars of the tasks, and how many candidates a second that makes."""
    rows = []
    for name, own in found.items():
        limits = [f" (≤ {limit:g})" if limit else "" for limit in {**TASKS, **GROWTH}[name].limits_s]
        rows.append(
            (
                name,
                own["plan"],
                f"{own['whole_s']:.1f}{limits[0]}",
                f"{own['whole_cpu_s']:.1f}",
                f"{own['search_s']:.2f}{limits[1]}",
                f"{own['search_cpu_s']:.2f}",
                f"{own['points']:,}",
                f"{own['evaluated']:,}",
                f"{own['points'] / own['search_cpu_s']:,.0f}",
            )
        )
    headers = (
        *(
            "model",
            "tp × pp × dp",
            "capture + search s",
            "of CPU",
            "from a saved graph s",
            "of CPU",
            "candidates",
            "cut",
        ),
        "candidates / CPU s",
    )
    return "\n".join(grid(rows, headers, "llrrrrrrr"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["whole"]:
        print(json.dumps(measure_whole(*sys.argv[2:])))
    elif sys.argv[1:2] == ["search"]:
        print(json.dumps(measure_search(*sys.argv[2:])))
    else:
        from tests.benchmarks.search_page import main

        main(sys.argv[1:])
