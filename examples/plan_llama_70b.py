"""Plan a 70B Llama for 64 H100s on a machine that has none: nothing is downloaded, nothing is allocated."""

import sys
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import autopart


def main() -> None:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        inputs = {name: torch.empty(2, 8192, dtype=torch.long) for name in ("input_ids", "labels")}

    print("capturing and planning Llama 70B for 64 H100s ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    plan = autopart.plan(model, world=64, cluster="dgx-h100", global_batch=512, inputs=inputs)
    print(f"done in {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    print(plan)


if __name__ == "__main__":
    main()
