"""Setting: what `autopart.plan` is asked for to repeat a published run, and what had to be assumed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tests.benchmarks.fidelity.nearest import is_hopper, nearest_cluster, nearest_family, nearest_stack
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
    ("a100-40gb-4x200g", lambda run: run.id.startswith("neox20b")),
    ("a100-40gb-roce", lambda run: run.gpu == "a100-sxm-40gb"),
    ("p3-16xlarge", lambda run: run.gpu == "v100-sxm-16gb"),
    ("dgx-2", lambda run: run.gpu == "v100-sxm-32gb"),
    ("dgx-a100", lambda run: run.gpu.startswith("a100")),
    ("h100-96gb-400g", lambda run: run.gpu == "h100-sxm-96gb-hbm2e-500w"),
    ("dgx-h200", lambda run: run.gpu.startswith("h200")),
    ("dgx-h100", lambda run: run.gpu.startswith("h100")),
    ("dgx-b200", lambda run: run.gpu.startswith("b200")),
)
_KNOWN_GPUS = (
    "a100-sxm",
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "b200-sxm-180gb",
    "h100-sxm-80gb",
    "h100-sxm-96gb-hbm2e-500w",
    "h200-sxm-141gb",
    "v100-sxm-16gb",
    "v100-sxm-32gb",
)
_SCHEDULES = {
    "none": "1f1b",
    "afab": "gpipe",
    "interleaved": "interleaved-1f1b",
    "1f1b-interleaved": "interleaved-1f1b",
    "zbv": "zb-v",
    "zb": "zb-h1",
    "zbh1": "zb-h1",
}
_PRECISIONS = {"fp16": "fp16-mixed", "16bit": "fp16-mixed", "bf16": "bf16-mixed", "fp8": "fp8-mixed"}
_PURE = ("bf16-pure", "fp32", "tf32", "float32")


_RECOMPUTE = {"no": "none", "off": "none", "yes": "full", "on": "full", "attention": "selective", "attn": "selective"}


class NotEvaluatedError(Exception):
    """A run that cannot be repeated; the message says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The model, the keywords of `autopart.plan`, and what was taken for something that is not known here."""

    shape: Shape
    dtype: torch.dtype
    keywords: dict[str, Any]
    assumed: str = ""


def setting_of(run: Run, stacks: tuple[str, ...]) -> Setting:
    """How to repeat `run`, given the names of the stacks that are known.

    Raises:
        NotEvaluatedError: something of it is not known here.
    """
    cluster = next((name for name, fits in _CLUSTERS if fits(run)), None) or nearest_cluster(run.gpu)
    if cluster is None:
        raise NotEvaluatedError(f"no cluster has a {run.gpu!r}")
    if nearest_family(run.family) is None:
        raise NotEvaluatedError(f"no plain model of family {run.family!r}")
    if run.ep > 1:
        raise NotEvaluatedError("expert parallelism")
    if run.tp * run.pp * run.dp * run.cp != run.gpus:
        raise NotEvaluatedError(f"tp{run.tp} pp{run.pp} dp{run.dp} cp{run.cp} are not {run.gpus} GPUs")
    stack = _stack(run, stacks)
    half = torch.float16 if run.precision in ("fp16", "16bit") else torch.bfloat16
    if run.precision in ("fp32", "tf32", "float32"):
        half = torch.float32
    if run.precision not in (*_PRECISIONS, *_PURE):
        raise NotEvaluatedError(f"precision {run.precision!r}; known are {', '.join((*_PRECISIONS, *_PURE))}")
    schedule = _SCHEDULES.get(run.schedule.lower(), run.schedule.lower())
    if run.virtual_stages > 1 and schedule == "1f1b":
        schedule = "interleaved-1f1b"
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
        "schedule": schedule,
        "recompute": recompute_of(run),
        "precision": _PRECISIONS.get(run.precision, "as-built"),
        "stack": stack,
        "memory_limit_bytes": float("inf"),
    }
    if run.tp > 1:
        keywords["sequence_parallel"] = run.sequence_parallel
    cuts = cuts_of(run)
    if cuts is not None:
        keywords["cuts"] = cuts
    return Setting(shape_of(run), half, keywords, _assumed(run, cluster, stack))


def _assumed(run: Run, cluster: str, stack: str) -> str:
    """What stands in for a stack or a device that has no file."""
    parts = []
    if stack != run.stack and not stack.startswith(f"{run.stack}-") and stack not in ("alpa", "gpt-neox"):
        parts.append(f"stack {run.stack or 'not given'!r} as {stack}")
    if run.gpu not in _KNOWN_GPUS:
        parts.append(f"{run.gpu!r} as in {cluster}")
    if run.hybrid_shard and not stack.endswith("-hybrid"):
        parts.append("hybrid sharding as sharding over all")
    return ", ".join(parts)


def recompute_of(run: Run) -> str:
    """How `plan` calls what a run computed again."""
    if "every 2nd layer" in run.recompute_detail:
        return "full:1/2"
    return _RECOMPUTE.get(run.recompute.lower(), run.recompute)


def shape_of(run: Run) -> Shape:
    """The model of a run."""
    mosaic = run.stack == "llm-foundry-fsdp"
    bloom = run.id.startswith("bloom")
    return Shape(
        family=nearest_family(run.family) or "",
        layers=run.layers,
        hidden=run.hidden,
        ffn_hidden=run.ffn_hidden,
        heads=run.heads,
        kv_heads=run.kv_heads,
        vocab=-(-(run.vocab or ASSUMED_VOCAB) // (128 * run.tp)) * 128 * run.tp,
        seq_len=run.seq_len,
        # Megatron's GPT drops 0.1 unless told otherwise, and no script of BLOOM's does; MPT and the models of 2024 drop
        # nothing.
        dropout=0.1 if nearest_family(run.family) == "gpt" and run.stack.startswith("megatron") else 0.0,
        biases=not mosaic,
        learned_positions=not mosaic and not bloom,
        fused=not run.stack.startswith("torchtitan"),
        complex_rotary=run.stack.startswith("torchtitan"),
    )


def cuts_of(run: Run) -> tuple[str, ...] | None:
    """The first modules of all stages but the first: even in layers, as all of these stacks cut.

    Where layers do not divide, embedding and head take a layer's place each if that makes them divide; else all stages
    have as many layers but the last, which has what is left, or, if nothing is, some have one layer more than others.
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
            firsts = [-(-stage * run.layers // stages) for stage in range(1, stages)]
        if run.layers < stages:
            raise NotEvaluatedError(f"{run.layers} layers on {stages} stages leave some without any")
    return tuple(f"blocks.{first}" for first in firsts)


def _stack(run: Run, stacks: tuple[str, ...]) -> str:
    name = _named_stack(run, stacks)
    # What the sources say of how a stack was used; a variant has a file of its own.
    used = (
        # torchtitan's table of 2024 on A100s names no compiling, which is off unless asked for.
        ("eager", run.notes.startswith(("eager", "no torch.compile")) or (name == "torchtitan" and "a100" in run.gpu)),
        ("async-tp", "asynctp" in run.notes.lower()),
        ("hybrid", run.hybrid_shard),
        # Published with their dates: BLOOM's bfloat16 optimizer is of 28 February 2022, its runs called "best" are
        # older; torchtitan's runs on H200 are of 2025, when its loss was compiled.
        ("bf16", run.precision == "bf16" and not run.id.startswith("bloom_best")),
        ("2025", run.gpu.startswith("h200")),
        # Its chronicles: on 320 GPUs and more it always hung but with CUDA_LAUNCH_BLOCKING=1.
        ("blocking", run.id.startswith("bloom_") and run.gpus >= 320),
    )
    for variant, applies in used:
        if applies and f"{name}-{variant}" in stacks:
            name = f"{name}-{variant}"
    return name


def _named_stack(run: Run, stacks: tuple[str, ...]) -> str:
    if run.stack == "megatron-core" and is_hopper(run.gpu):
        return "nemo-megatron-core"  # that of 2024, whose file is for both; "megatron-core" is that of 2023
    if run.stack in stacks:
        return run.stack
    for name, start in (("alpa", "alpa"), ("gpt-neox", "neox20b")):
        if run.stack == "other" and run.id.startswith(start):
            return name
    return nearest_stack(run, stacks)
