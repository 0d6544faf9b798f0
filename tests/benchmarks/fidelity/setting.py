"""Setting: what `autopart.plan` is asked for to repeat a published run, and what had to be assumed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tests.benchmarks.fidelity.run import Run
from tests.benchmarks.fidelity.transformer import Shape

ASSUMED_VOCAB = 50304
# A run's network is its stack's and its GPU's; only where one stack ran on several is the source asked.
_CLUSTERS: tuple[tuple[str, Callable[[Run], bool]], ...] = (
    ("jean-zay", lambda run: run.id.startswith("bloom_")),
    ("a100-4x200g", lambda run: run.stack == "megatron-deepspeed-2022" and run.gpu == "a100-sxm-80gb"),
    ("a100-roce", lambda run: run.stack == "megatron-2023-zb"),
    ("a100-400g", lambda run: run.stack == "fms-fsdp" and run.gpu.startswith("a100")),
    ("h100-800g", lambda run: run.stack == "fms-fsdp" and run.gpu.startswith("h100")),
    ("a100-40gb-roce", lambda run: run.gpu == "a100-sxm-40gb"),
    ("p3-16xlarge", lambda run: run.gpu == "v100-sxm-16gb"),
    ("dgx-2", lambda run: run.gpu == "v100-sxm-32gb"),
    ("dgx-a100", lambda run: run.gpu.startswith("a100")),
    ("h100-96gb-400g", lambda run: run.gpu == "h100-sxm-96gb-hbm2e-500w"),
    ("dgx-h200", lambda run: run.gpu.startswith("h200")),
    ("dgx-h100", lambda run: run.gpu.startswith("h100")),
    ("dgx-b200", lambda run: run.gpu.startswith("b200")),
)
_SCHEDULES = {"none": "1f1b"}
_FAMILIES = {
    "opt": "gpt",
    "gpt2": "gpt",
    "gpt3": "gpt",
    "mpt": "gpt",
    "bloom": "gpt",
    "mistral": "llama",
    "qwen": "llama",
}


class NotEvaluatedError(Exception):
    """A run that cannot be repeated; the message says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The model, and the keywords of `autopart.plan`."""

    shape: Shape
    dtype: torch.dtype
    keywords: dict[str, Any]


def setting_of(run: Run, stacks: tuple[str, ...]) -> Setting:
    """How to repeat `run`, given the names of the stacks that are known.

    Raises:
        NotEvaluatedError: something of it is not known here.
    """
    cluster = next((name for name, fits in _CLUSTERS if fits(run)), None)
    if cluster is None:
        raise NotEvaluatedError(f"no cluster has a {run.gpu}")
    if _FAMILIES.get(run.family, run.family) not in ("gpt", "llama", "nemotron"):
        raise NotEvaluatedError(f"no plain model of family {run.family}")
    if run.ep > 1:
        raise NotEvaluatedError("expert parallelism")
    stack = _stack(run, stacks)
    half = torch.float16 if run.precision in ("fp16", "16bit") else torch.bfloat16
    precisions = {"fp16": "fp16-mixed", "16bit": "fp16-mixed", "bf16": "bf16-mixed", "fp8": "fp8-mixed"}
    keywords: dict[str, Any] = {
        "world": run.gpus,
        "cluster": cluster,
        "global_batch": run.global_batch,
        "tp": run.tp,
        "pp": run.pp,
        "dp": run.dp,
        "cp": run.cp,
        "micro_batch": run.micro_batch,
        "virtual_stages": run.virtual_stages,
        "zero": run.zero,
        "schedule": _SCHEDULES.get(run.schedule, run.schedule),
        "recompute": recompute_of(run),
        "precision": precisions.get(run.precision, "as-built"),
        "stack": stack,
        "memory_limit_bytes": float("inf"),
    }
    if run.tp > 1:
        keywords["sequence_parallel"] = run.sequence_parallel
    cuts = cuts_of(run)
    if cuts is not None:
        keywords["cuts"] = cuts
    return Setting(shape_of(run), half, keywords)


def recompute_of(run: Run) -> str:
    """How `plan` calls what a run computed again."""
    if "every 2nd layer" in run.recompute_detail:
        return "full:1/2"
    return run.recompute


def shape_of(run: Run) -> Shape:
    """The model of a run."""
    mosaic = run.stack == "llm-foundry-fsdp"
    bloom = run.id.startswith("bloom")
    return Shape(
        family=_FAMILIES.get(run.family, run.family),
        layers=run.layers,
        hidden=run.hidden,
        ffn_hidden=run.ffn_hidden,
        heads=run.heads,
        kv_heads=run.kv_heads,
        vocab=-(-(run.vocab or ASSUMED_VOCAB) // (128 * run.tp)) * 128 * run.tp,
        seq_len=run.seq_len,
        # Megatron's GPT drops 0.1 in its papers' runs; MPT, BLOOM and the models of 2024 nothing.
        dropout=0.1
        if _FAMILIES.get(run.family, run.family) == "gpt" and run.stack.startswith("megatron") and not bloom
        else 0.0,
        biases=not mosaic,
        learned_positions=not mosaic and not bloom,
        fused=not run.stack.startswith("torchtitan"),
        complex_rotary=run.stack.startswith("torchtitan"),
    )


def cuts_of(run: Run) -> tuple[str, ...] | None:
    """The first modules of all stages but the first: even in layers, as all of these stacks cut.

    Where layers do not divide, embedding and head take a layer's place each if that makes them divide; else the first
    stages have one layer more.
    """
    stages = run.pp * run.virtual_stages
    if stages == 1:
        return None
    if run.layers % stages == 0:
        firsts = [stage * run.layers // stages for stage in range(1, stages)]
    elif (run.layers + 2) % stages == 0:
        each = (run.layers + 2) // stages
        firsts = [stage * each - 1 for stage in range(1, stages)]
        return tuple("norm" if first == run.layers else f"blocks.{first}" for first in firsts)
    else:
        each = -(-run.layers // stages)
        firsts = [stage * each for stage in range(1, stages)]
        if firsts[-1] >= run.layers:
            raise NotEvaluatedError(f"{run.layers} layers on {stages} stages leave some without any")
    return tuple(f"blocks.{first}" for first in firsts)


def _stack(run: Run, stacks: tuple[str, ...]) -> str:
    eager = f"{run.stack}-eager"
    if run.notes.startswith("eager") and eager in stacks:
        return eager
    # Published with their dates: BLOOM's bfloat16 optimizer is of 28 February 2022, its runs called "best" are older;
    # torchtitan's runs on H200 are of 2025, when its loss was compiled.
    if run.stack == "megatron-deepspeed-2022" and run.precision == "bf16" and not run.id.startswith("bloom_best"):
        return "megatron-deepspeed-2022-bf16"
    if run.stack == "torchtitan" and run.gpu.startswith("h200"):
        return "torchtitan-2025"
    if run.stack in stacks:
        return run.stack
    near = [name for name in stacks if name in run.stack or run.stack in name]
    if near:
        return near[0]
    if run.stack == "other":  # Megatron-DeepSpeed's relatives of 2022
        return "megatron-deepspeed-2022"
    raise NotEvaluatedError(f"no stack file for {run.stack}")
