"""How long capture takes, and how much memory: `python -m tests.benchmarks.capture_speed`.

Each model is captured once in a fresh process, on `meta` at a sequence of its config's length. Seconds are of capture
alone, and of all that comes before the search (capture, fold, rules); imports and building the model are left out. The
peak is of the whole process.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autopart.report.grid import grid


def llama(layers: int, hidden: int, heads: int, intermediate: int) -> nn.Module:
    """Llama 3, at 4096 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=8,
        intermediate_size=intermediate, vocab_size=128256, max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt3() -> nn.Module:
    """GPT-2's code at the size of GPT-3 (Brown et al. 2020, Table 2.1)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=96, n_embd=12288, n_head=96, n_positions=2048))


MODELS: Mapping[str, tuple[int, Callable[[], nn.Module]]] = {
    "Llama 8B": (32, lambda: llama(32, 4096, 32, 14336)),
    "Llama 70B": (80, lambda: llama(80, 8192, 64, 28672)),
    "Llama 405B": (126, lambda: llama(126, 16384, 128, 53248)),
    "GPT-3 175B": (96, gpt3),
    "1,200 small layers": (1200, lambda: llama(1200, 64, 8, 128)),
}


def measure(name: str) -> dict[str, float]:
    """Capture model `name` in this process."""
    from autopart.api import prepare
    from autopart.capture.example_inputs import example_inputs
    from autopart.capture.torch_export import capture

    with torch.device("meta"):
        model = MODELS[name][1]()
    start = time.perf_counter(), time.process_time()
    captured = capture(model, example_inputs(model, None))
    wall_s, cpu_s = time.perf_counter() - start[0], time.process_time() - start[1]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = time.perf_counter()
    prepare(model, None, None)
    return {
        "nodes": len(captured.graph.nodes),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_mb": peak_mb,
        "prepare_s": time.perf_counter() - before,
    }


def main() -> None:
    """Measure every model in a process of its own, and print a table."""
    rows: list[tuple[Any, ...]] = []
    for name, (layers, _) in MODELS.items():
        command = [sys.executable, "-m", "tests.benchmarks.capture_speed", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        times = (f"{found[key]:.1f}" for key in ("wall_s", "cpu_s", "prepare_s"))
        rows.append((name, layers, found["nodes"], *times, f"{found['peak_mb']:.0f}"))
    headers = ("model", "layers", "nodes", "capture s", "of CPU", "second capture, fold, rules s", "peak MB")
    print("\n".join(grid(rows, headers, "lrrrrrr")))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
