"""Setting: what `autopart.plan` is asked for to repeat a published run, and what had to be assumed."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tests.benchmarks.fidelity.nearest import gpu_name, is_hopper, nearest_cluster, nearest_family, nearest_stack
from tests.benchmarks.fidelity.run import Run
from tests.benchmarks.fidelity.transformer import Shape

ASSUMED_VOCAB = 50304
# A run's network is its stack's and its GPU's; only where one stack ran on several is the source asked.
_CLUSTERS: tuple[tuple[str, Callable[[Run, str], bool]], ...] = (
    ("jean-zay", lambda run, gpu: run.id.startswith("bloom_")),
    ("a100-4x200g", lambda run, gpu: run.id.startswith("vtrain_")),
    ("a100-roce", lambda run, gpu: run.stack == "megatron-2023-zb"),
    ("a100-400g", lambda run, gpu: run.stack == "fms-fsdp" and gpu.startswith("a100")),
    ("h100-800g", lambda run, gpu: run.stack == "fms-fsdp" and gpu.startswith("h100")),
    ("a100-40gb-4x200g", lambda run, gpu: run.id.startswith("neox20b")),
    ("p3-16xlarge", lambda run, gpu: run.id.startswith("alpa_")),
    ("a100-40gb-roce", lambda run, gpu: run.stack == "llm-foundry-fsdp" and gpu == "a100-sxm-40gb"),
    ("v100-16gb-100g", lambda run, gpu: run.id.startswith("dlperf_")),
    ("h100-96gb-400g", lambda run, gpu: gpu == "h100-sxm-96gb-hbm2e-500w"),
)
_KNOWN_GPUS = re.compile(
    r"a100-sxm(-[48]0gb)?|h100-sxm-80gb|h100-sxm-96gb-hbm2e-500w|h100-pcie-80gb|h200-sxm-141gb|b200-sxm-180gb|"
    r"v100-sxm-(16|32)gb|[ah]800.*|l40s.*"
)
# Of a name in lower case, without anything but letters and numbers: the first that fits.
_SCHEDULES = (
    (r"|none|na|no|serial|sequential|gradaccum.*", "1f1b"),
    (r".*interleav.*|vpp|1f1bi", "interleaved-1f1b"),
    (r"1f1b.*|pipedreamflush|dapple", "1f1b"),
    (r"gpipe|afab|allfwdallbwd|fillanddrain", "gpipe"),
    (r"zbv", "zb-v"),
    (r"zb|zbh1|zerobubble", "zb-h1"),
    (r"zbh2", "zb-h2"),
    (r"zb1p", "zb-1p"),
    (r"zb2p", "zb-2p"),
)
_PRECISIONS = (
    (r"(bf16|bfloat16)(pure|only|true)|pure(bf16|bfloat16)", "bf16-pure"),
    (r"(mx)?(fp8|float8).*", "fp8-mixed"),
    (r"(amp)?(bf16|bfloat16)(mixed|amp|params)?.*|mixedbf16", "bf16-mixed"),
    (r"(amp)?(fp16|float16|half|16bit|16)(mixed|amp)?|mixedfp16|mixed", "fp16-mixed"),
    (r"fp32|tf32|float32|full|32bit|32", "float32"),
)
_RECOMPUTE = (
    (r"|no|none|off|false|0|disabled", "none"),
    (r"yes|on|true|1|all|full.*|uniform|block|everylayer|activationcheckpointing|gradientcheckpointing", "full"),
    (r"sel.*|attn.*|attention.*|core.*|flash", "selective"),
)
_OWN_FAMILIES = ("gpt", "llama", "nemotron")


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
    cluster = _cluster(run)
    if _family(run) is None:
        raise NotEvaluatedError(
            f"no plain model of family {run.family!r}: what is built are decoders with dense layers, like GPT or Llama"
        )
    if run.ep > 1:
        raise NotEvaluatedError(f"expert parallelism, ep={run.ep}: what is built are models without experts")
    if "offload" in run.stack.lower():
        raise NotEvaluatedError(f"stack {run.stack!r}: no model of memory or optimizers outside of the device")
    if run.tp * run.pp * run.dp * run.cp != run.gpus:
        raise NotEvaluatedError(
            f"tp{run.tp} pp{run.pp} dp{run.dp} cp{run.cp} are not {run.gpus} GPUs; an empty dp is taken to fill them"
        )
    stack = _stack(run, stacks)
    precision = _named(run.precision, _PRECISIONS)
    if precision is None:
        known = "fp8, bf16, bf16-pure, fp16, fp32 and names like them"
        raise NotEvaluatedError(f"precision {run.precision!r}; known are {known}")
    half = {"fp16-mixed": torch.float16, "float32": torch.float32}.get(precision, torch.bfloat16)
    schedule = _named(run.schedule, _SCHEDULES) or run.schedule.lower()
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
        "precision": precision if precision.endswith("-mixed") else "as-built",
        "stack": stack,
        "memory_limit_bytes": float("inf"),
    }
    if run.tp > 1:
        keywords["sequence_parallel"] = run.sequence_parallel
    cuts = cuts_of(run)
    if cuts is not None:
        keywords["cuts"] = cuts
    return Setting(shape_of(run), half, keywords, _assumed(run, cluster, stack))


def _cluster(run: Run) -> str:
    gpu = gpu_name(run.gpu)
    found = next((name for name, fits in _CLUSTERS if fits(run, gpu)), None) or nearest_cluster(gpu)
    if found is None:
        raise NotEvaluatedError(
            f"no cluster has a {run.gpu!r}: add it as a file of cost_models/devices and one of cost_models/clusters"
        )
    return found


def _family(run: Run) -> str | None:
    return nearest_family(run.family, gated=run.ffn_hidden != 4 * run.hidden or run.kv_heads != run.heads)


def _named(text: str, known: Sequence[tuple[str, str]]) -> str | None:
    """What a cell means, by the first pattern that all its letters and numbers fit."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    return next((name for pattern, name in known if re.fullmatch(pattern, plain)), None)


def _assumed(run: Run, cluster: str, stack: str) -> str:
    """What stands in for a stack, a device or a model that is not known."""
    parts = []
    if stack != run.stack and not stack.startswith(f"{run.stack}-") and not _own_stack(run):
        parts.append(f"stack {run.stack or 'not given'!r} as {stack}")
    if not _KNOWN_GPUS.fullmatch(gpu_name(run.gpu)):
        parts.append(f"{run.gpu!r} as in {cluster}")
    if run.family not in _OWN_FAMILIES:
        parts.append(f"family {run.family or 'not given'!r} as {_family(run)}")
    if run.hybrid_shard and not stack.endswith("-hybrid"):
        parts.append("hybrid sharding as sharding over all")
    if "ulysses" in run.stack.lower():
        parts.append("Ulysses as ring attention")
    return ", ".join(parts)


def recompute_of(run: Run) -> str:
    """How `plan` calls what a run computed again."""
    if "every 2nd layer" in run.recompute_detail:
        return "full:1/2"
    return _named(run.recompute, _RECOMPUTE) or run.recompute


def shape_of(run: Run) -> Shape:
    """The model of a run."""
    mosaic = run.stack == "llm-foundry-fsdp"
    bloom = run.id.startswith("bloom")
    return Shape(
        family=_family(run) or "",
        layers=run.layers,
        hidden=run.hidden,
        ffn_hidden=run.ffn_hidden,
        heads=run.heads,
        kv_heads=run.kv_heads,
        vocab=-(-(run.vocab or ASSUMED_VOCAB) // (128 * run.tp)) * 128 * run.tp,
        seq_len=run.seq_len,
        # Megatron's GPT drops 0.1 unless told otherwise, and no script of BLOOM's does; MPT and the models of 2024 drop
        # nothing.
        dropout=0.1 if _family(run) == "gpt" and run.stack.startswith("megatron") else 0.0,
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
        # Its script gives no --scatter-gather-tensors-in-pipeline, which version 2.4 asks for.
        ("unscattered", run.id.startswith("dlperf_")),
        # MegaScale's ablation (its table 3) adds the overlap of data parallelism to Megatron-LM.
        ("exposed", run.id.startswith("megascale_mlm_")),
        # Its chronicles: on 320 GPUs and more it always hung but with CUDA_LAUNCH_BLOCKING=1.
        ("blocking", run.id.startswith("bloom_") and run.gpus >= 320),
    )
    for variant, applies in used:
        if applies and f"{name}-{variant}" in stacks:
            name = f"{name}-{variant}"
    return name


def _named_stack(run: Run, stacks: tuple[str, ...]) -> str:
    if (own := _own_stack(run)) is not None:
        return own
    return run.stack if run.stack in stacks else nearest_stack(run, stacks)


def _own_stack(run: Run) -> str | None:
    """The stack of a run whose source tells more of it than its column."""
    for name, start in (("alpa", "alpa_"), ("gpt-neox", "neox20b")):
        if run.stack == "other" and run.id.startswith(start):
            return name
    # Its README has had the example of GPT-3 with its 32 s since version 2.5 of 2021, before Megatron-Core.
    if run.id.startswith("mlm_readme_"):
        return "megatron-2021"
    if run.zero >= 3 and run.stack == "megatron-2021":  # which has none: the paper ran DeepSpeed's
        return "deepspeed-zero3-2021"
    if run.stack == "megatron-core" and is_hopper(run.gpu):
        return "nemo-megatron-core"  # that of 2024, whose file is for both; "megatron-core" is that of 2023
    return None
