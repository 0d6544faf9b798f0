"""One architecture through everything: capture, plan, emit, run on 2 x 2 processes, compare with one process."""

import copy
import logging
import re
import time
import warnings
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from autopart import api
from autopart.errors import AutopartError
from autopart.estimate.node import Prices
from autopart.ir.graph import Graph
from autopart.ir.kept import KEPT, function_name
from autopart.ir.plan import PlanData
from autopart.ir.program import Program
from autopart.runtime.parallel import Parallel
from cost_models.cluster import load_cluster
from cost_models.stack import load_stack
from tests.benchmarks.zoo.architectures import Architecture, architectures
from tests.worker_pool import WorkerPool

CLUSTER = "local-cpu"
LAYOUT = {"tp": 2, "pp": 2, "dp": 1}
SAMPLES = 4
# Relative to a tensor's largest entry. Most models compute norms, softmax or the loss in float32 whatever their dtype.
TOLERANCE = {"float64": 1e-5, "float32": 1e-3}
SMALLEST = 1e-3  # of the largest gradient: below it a gradient is taken for zero but for rounding


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one architecture.

    Attributes:
        result: "pass", "refused" (an error said so), "wrong" (numbers differ) or "broken" (another failure).
        kept: names of modules that were kept whole, as they cannot be captured.
        reason: in one line, why it did not pass.
        nodes, distinct: nodes of the graph, and after folding repeated blocks.
        flops_share, bytes_share: of matmul FLOPs and of parameter bytes, what tp ranks share.
        micro_batches: of the run that was compared; 1 where samples are mixed.
        error: of loss and gradients, the worst relative to its tensor's largest entry.
        capture_s, plan_s, run_s: seconds for capture with its analysis, search with emission, and the run.
    """

    name: str
    family: str
    result: str = "broken"
    kept: tuple[str, ...] = ()
    reason: str = ""
    nodes: int = 0
    distinct: int = 0
    flops_share: float = 0.0
    bytes_share: float = 0.0
    micro_batches: int = 0
    error: float = float("nan")
    capture_s: float = 0.0
    plan_s: float = 0.0
    run_s: float = 0.0


def run_trial(pool: WorkerPool, architecture: Architecture) -> Trial:
    """Try `architecture` on four processes of `pool`."""
    trial = Trial(architecture.name, architecture.family)
    try:
        return _through(pool, architecture, trial)
    except AutopartError as error:
        return replace(trial, result="refused", reason=_one_line(f"{type(error).__name__}: {error}"))
    except Exception as error:
        return replace(trial, reason=_one_line(f"{type(error).__name__}: {error}"))


def _through(pool: WorkerPool, architecture: Architecture, trial: Trial) -> Trial:
    _hush()
    model, batch = architecture.build()
    start = time.perf_counter()
    prepared = api.prepare(model, batch, None, keep_whole="auto")
    captured = time.perf_counter()
    micro_batch = SAMPLES if prepared.batch.mixing else SAMPLES // 2
    pins = api.Pins(**LAYOUT, micro_batch=micro_batch)
    made = api.make_plan(prepared, prod(LAYOUT.values()), CLUSTER, SAMPLES, pins)
    plan = PlanData(**{item.name: getattr(made, item.name) for item in fields(PlanData)})
    program = api.make_program(plan, prepared)
    planned = time.perf_counter()
    trial = replace(
        trial,
        kept=prepared.kept_unasked,
        nodes=len(prepared.captured.graph.nodes),
        distinct=len(prepared.folded.graph.nodes),
        flops_share=_flops_share(prepared, plan, _kept_flops(prepared, model, batch) / SAMPLES),
        bytes_share=_bytes_share(prepared, plan),
        micro_batches=SAMPLES // micro_batch,
        capture_s=captured - start,
        plan_s=planned - captured,
    )
    loss, gradients = single_process(model, batch)
    begin = time.perf_counter()
    args = (architecture.name, plan, program, prepared.captured.graph, dict(prepared.captured.constants))
    results = pool.run(_train, plan.world, *args)
    error, where = _worst((results[0][0], results[0][1]), (loss, gradients))
    allowed = TOLERANCE[architecture.dtype]
    trial = replace(trial, error=error, run_s=time.perf_counter() - begin)
    if error <= allowed:
        return replace(trial, result="pass")
    return replace(trial, result="wrong", reason=f"{where}: relative error {error:.1e} > {allowed:.0e}")


def single_process(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and all gradients of the unmodified model."""
    output = model(**batch)
    loss = output if isinstance(output, torch.Tensor) else output["loss"]
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return float(loss.detach()), found


def _train(
    name: str, plan: PlanData, program: Program, graph: Graph, constants: dict[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    """A rank's part: one step."""
    _hush()
    model, batch = next(item for item in architectures() if item.name == name).build()
    par = Parallel(plan, program, graph, model, constants)
    loss = float(par.train_step(par.shard_batch(batch)))
    return loss, par.full_gradients()


def _worst(
    found: tuple[float, dict[str, torch.Tensor]], expected: tuple[float, dict[str, torch.Tensor]]
) -> tuple[float, str]:
    """The largest relative error, and of what."""
    errors = {"loss": abs(found[0] - expected[0]) / abs(expected[0])}
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name in found[1].keys() | expected[1].keys():  # without a gradient is as good as zero
        own, other = (side.get(name, torch.zeros(())).double() for side in (found[1], expected[1]))
        scale = max(float(other.abs().max()), SMALLEST * largest)
        errors[f"gradient of {name}"] = float((own - other).abs().max()) / scale
    where = max(errors, key=lambda key: errors[key] if errors[key] == errors[key] else float("inf"))
    return errors[where], where


def _kept_flops(prepared: api.Prepared, model: torch.nn.Module, batch: dict[str, Any]) -> float:
    """The FLOPs of the modules kept whole, forward, counted as the unmodified model runs."""
    scopes = {node.scope for node in prepared.captured.graph.nodes if node.op == KEPT and not function_name(node)}
    if not scopes:
        return 0.0
    model = copy.deepcopy(model).requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(**batch)
    counts = counter.get_flop_counts()
    return float(sum(sum(counts[f"{type(model).__name__}.{scope}"].values()) for scope in scopes))


def _flops_share(prepared: api.Prepared, plan: PlanData, kept_flops: float) -> float:
    """Of the FLOPs of matmuls, convolutions and attention, what the tp ranks divide among them.

    `kept_flops` are those of modules kept whole, a sample; these are never divided.
    """
    cluster, stack = load_cluster(CLUSTER), load_stack("autopart")
    prices = Prices(prepared.folded.graph, prepared.rules, cluster, plan.tp, plan.micro_batch, stack)
    letters = {choice.node: choice.letter for choice in plan.nodes}
    shared, total = 0.0, kept_flops * plan.micro_batch
    for node, runs in zip(prepared.folded.graph.nodes, prepared.folded.runs, strict=True):
        flops = prices.flops(node) * runs
        total += flops
        shared += flops if letters[node.name] else 0.0
    return shared / total if total else 1.0


def _bytes_share(prepared: api.Prepared, plan: PlanData) -> float:
    """Of the parameters' bytes, what the tp ranks divide among them."""
    graph, copies = prepared.folded.graph, prepared.folded.copies
    sizes = {p.value.name: prod(int(s) for s in p.value.shape) * copies[p.value.name] for p in graph.parameters}
    shared = sum(sizes[choice.name] for choice in plan.parameters if choice.layout.shard is not None)
    return shared / sum(sizes.values())


def _hush() -> None:
    """Models warn of slow paths and of settings that are meant."""
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    reason = lines[-1] if lines[0].endswith("failed:") else " ".join(lines)
    return re.sub(r"/\S*/site-packages/", "", reason)[:300]
