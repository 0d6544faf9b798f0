"""The zoo's page: what of the architectures passes, a row each, and why the others do not."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from tabulate import tabulate

from tests.benchmarks.zoo.settings import NOT_RUNNABLE
from tests.benchmarks.zoo.trial import CLUSTER, LAYOUT, SAMPLES, TOLERANCE, Trial

MOST_PREPARED_S = 60.0
DENSE = "dense transformer"
ENOUGH_FLOPS = 0.99

INTRODUCTION = f"""# The zoo

Written by `make zoo`. Every causal language model of the installed transformers and some other kinds of models, with
small random weights (tests/benchmarks/zoo): captured with `keep_whole="auto"`, planned for `{CLUSTER}` with
tp={LAYOUT["tp"]} and pp={LAYOUT["pp"]}, written out and run for a step of {SAMPLES} samples on local processes. The
loss and every gradient are compared with those of the unmodified model in one process, each relative to its largest
entry: up to {TOLERANCE["float64"]:.0e} for models in float64 (most of them compute norms, softmax or the loss in
float32 all the same), {TOLERANCE["float32"]:.0e} for those that run in float32 only.
"""


def row(trial: Trial) -> str:
    """A trial in one line of text."""
    return (
        f"{trial.name:28} {trial.family:18} {_result(trial):8} nodes {trial.nodes:5} distinct {trial.distinct:5} "
        f"flops {trial.flops_share:6.1%} bytes {trial.bytes_share:6.1%} error {trial.error:.0e} "
        f"prepared {trial.capture_s + trial.plan_s:5.1f} s run {trial.run_s:5.1f} s {trial.reason}"
    )


def _result(trial: Trial) -> str:
    """The result, and which modules were kept whole for it."""
    return trial.result + (f", keeping {' and '.join(trial.kept)} whole" if trial.kept else "")


def page(trials: Sequence[Trial], jobs: int) -> str:
    """The whole page; `jobs` architectures were tried at a time."""
    failed = [trial for trial in trials if trial.result != "pass"]
    parts = [INTRODUCTION, _summary(trials, jobs), "## Those that ran eagerly\n", _table(trials)]
    if failed:
        parts += ["## Why some do not pass\n", *(f"- `{trial.name}`: {trial.reason}" for trial in failed), ""]
    parts += ["## Those that do not run eagerly in training\n"]
    parts += [*(f"- `{name}`: {reason}" for name, reason in sorted(NOT_RUNNABLE.items())), ""]
    return "\n".join(parts)


def _summary(trials: Sequence[Trial], jobs: int) -> str:
    results = Counter(trial.result for trial in trials)
    passed = [trial for trial in trials if trial.result == "pass"]
    dense = [trial for trial in passed if trial.family == DENSE]
    enough = sum(trial.flops_share >= ENOUGH_FLOPS for trial in dense)
    seconds = [trial.capture_s + trial.plan_s for trial in trials]
    slow = sum(second > MOST_PREPARED_S for second in seconds)
    lines = [
        f"- {len(trials)} architectures run eagerly in training: {results['pass']} pass "
        f"({results['pass'] / len(trials):.1%}; {sum(bool(trial.kept) for trial in passed)} of them with modules kept "
        f"whole, which the tensor-parallel ranks do not share), {results['refused']} are refused with an error, "
        f"{results['broken']} break, {results['wrong']} compute a wrong number.",
        f"- Of {len(dense)} dense transformers that pass, {enough} ({enough / max(1, len(dense)):.1%}) share at least "
        f"{ENOUGH_FLOPS:.0%} of their matmul FLOPs among the tensor-parallel ranks.",
        f"- Capture, analysis, search and emission took {median(seconds):.1f} s in the median and at most "
        f"{max(seconds):.1f} s ({slow} above {MOST_PREPARED_S:.0f} s), {jobs} at a time.",
    ]
    return "\n".join(lines) + "\n"


def _table(trials: Sequence[Trial]) -> str:
    headers = [
        "architecture",
        "family",
        "result",
        "nodes",
        "after folding",
        "matmul FLOPs shared",
        "parameter bytes shared",
        "micro-batches",
        "worst error",
        "capture to emission, s",
        "run, s",
    ]
    rows = [
        (
            trial.name,
            trial.family,
            _result(trial),
            trial.nodes,
            trial.distinct,
            f"{trial.flops_share:.1%}",
            f"{trial.bytes_share:.1%}",
            trial.micro_batches,
            f"{trial.error:.0e}",
            f"{trial.capture_s + trial.plan_s:.1f}",
            f"{trial.run_s:.1f}",
        )
        for trial in trials
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True) + "\n"
