"""What the machine did: how busy all its CPUs were, and how much a step allocated."""

import os
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def busy_s() -> float:
    """Seconds that all CPUs of the machine have been busy, whoever kept them so (proc(5), /proc/stat)."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def most_allocated_bytes(step: Callable[[], object]) -> int:
    """The most that tensors on the CPU take during `step` above what they took before, as the profiler sees them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    more = most = 0
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        more += event.nbytes()
        most = max(most, more)
    return most
