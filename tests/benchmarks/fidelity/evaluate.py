"""Evaluate: what `autopart.plan` predicts for published runs, in worker processes that capture every model once."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import autopart
from autopart.errors import AutopartError
from autopart.ir.plan import PlanData
from cost_models.cluster import load_cluster
from cost_models.stack import load_stack, stack_names
from tests.benchmarks.fidelity.constant import Constant
from tests.benchmarks.fidelity.run import Run
from tests.benchmarks.fidelity.setting import NotEvaluatedError, setting_of
from tests.benchmarks.fidelity.transformer import build

GIB = 2**30
SHARES = ("1/4", "1/3", "1/2", "2/3", "3/4", "1")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was predicted for a run: seconds a step, the peak as its stack reports it, and whether that fits the device.

    `reason` says why nothing was predicted; `assumed` what stood in for something that is not known here.
    """

    run: Run
    step_s: float | None = None
    peak_gib: float | None = None
    fits: bool | None = None
    reason: str = ""
    assumed: str = ""

    @property
    def time_error(self) -> float | None:
        """Relative error of the step time; positive is too slow."""
        if self.step_s is None or self.run.step_s is None:
            return None
        return self.step_s / self.run.step_s - 1

    @property
    def memory_error(self) -> float | None:
        """Relative error of the peak memory."""
        if self.peak_gib is None or self.run.peak_gib is None:
            return None
        return self.peak_gib / self.run.peak_gib - 1


def evaluate(
    runs: Sequence[Run], workers: int, constants: Mapping[Constant, float] | None = None
) -> tuple[Outcome, ...]:
    """The outcomes of `runs`, in order; `constants` replace those of the files."""
    by_model: dict[Any, list[int]] = {}
    for index, run in enumerate(runs):
        key = (run.family, run.layers, run.hidden, run.heads, run.kv_heads, run.vocab, run.seq_len, run.stack)
        by_model.setdefault(key, []).append(index)
    groups = sorted(by_model.values(), key=len, reverse=True)
    found: dict[int, Outcome] = {}
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(_evaluate_group, [runs[i] for i in group], dict(constants or {})) for group in groups]
        for group, future in zip(groups, futures, strict=True):
            found.update(zip(group, future.result(), strict=True))
    return tuple(found[index] for index in range(len(runs)))


def _evaluate_group(runs: list[Run], constants: dict[Constant, float]) -> list[Outcome]:
    captured: dict[Any, Any] = {}
    return [outcome_of(run, captured, constants) for run in runs]


def outcome_of(run: Run, captured: dict[Any, Any], constants: Mapping[Constant, float]) -> Outcome:
    """One outcome; `captured` keeps models by their shape between calls."""
    try:
        setting = setting_of(run, stack_names())
        key = (setting.shape, setting.dtype)
        if key not in captured:
            model, batch = build(*key)
            captured[key] = autopart.prepare(model, inputs=batch)
        keywords = dict(setting.keywords)
        cluster, stack = load_cluster(keywords["cluster"]), load_stack(keywords["stack"])
        for constant, value in constants.items():
            cluster, stack = constant.put(cluster, stack, value)
        keywords |= {"cluster": cluster, "stack": stack}
        plan = _plan(captured[key], run, keywords)
    except (NotEvaluatedError, AutopartError) as error:
        return Outcome(run, reason=str(error).splitlines()[0])
    except Exception as error:  # whatever a file of others holds, its other runs are evaluated
        return Outcome(run, reason=f"{type(error).__name__}: {error}".splitlines()[0])
    context = {"device": cluster.device.context_bytes}.get(stack.reports, 0)
    held = {"allocated": 0}.get(stack.reports, 1)
    shown = max(s.memory.total_bytes - s.memory.reserve_bytes + held * s.memory.cached_bytes for s in plan.stages)
    # A run fails when tensors and context do not fit; the share that a plan keeps free for fragmentation is for safety.
    needed = max(s.memory.total_bytes - s.memory.reserve_bytes for s in plan.stages) + cluster.device.context_bytes
    fits = needed <= cluster.device.memory_bytes
    return Outcome(run, plan.predicted.step_time_s, (shown + context) / GIB, fits, assumed=setting.assumed)


def _plan(model: Any, run: Run, keywords: dict[str, Any]) -> PlanData:
    """The plan; where a share of the layers was computed again, and which is not published, the least that fits."""
    if "fraction" not in run.recompute_detail:
        return autopart.plan(model, **keywords)
    limit = keywords["cluster"].device.memory_bytes
    for share in SHARES:
        plan = autopart.plan(model, **(keywords | {"recompute": f"full:{share}"}))
        if max(plan.predicted.peak_memory_bytes) <= limit:
            break
    return plan
