"""Where the time of a step goes: `python -m tests.benchmarks.runtime_speed.breakdown [--row KEY ...] [--size SIZE]`."""

import argparse
import time
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

import autopart
from autopart.report.grid import grid
from tests.benchmarks.runtime_speed.gpt import SIZES, Size
from tests.benchmarks.runtime_speed.rows import ROWS
from tests.benchmarks.runtime_speed.side import Build

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_dot_product_flash_attention_for_cpu")
PRODUCTS += ("aten::addmm_", "aten::_scaled_dot_product_flash_attention_for_cpu_backward")
WARM_UP, TIMEOUT_S = 3, 300.0
HEADERS = ("work", "side", "model", "step ms", "CPU ms", "products", "other kernels", "rest", "idle")


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Seconds of a step: of the clock, and on all ranks together of CPU, in products and in all other kernels."""

    step_s: float
    cpu_s: float
    products_s: float
    kernels_s: float


def break_down(size: Size, builds: tuple[Build, ...], steps: int) -> list[Breakdown]:
    """Run on every rank of a job. Of each figure the least of so many steps counts, which others disturbed least."""
    torch.set_num_threads(1)
    sides = [build(size) for build in builds]
    found: list[list[list[float]]] = [[] for _ in sides]
    for side in sides:
        for _ in range(WARM_UP):
            side.run()
    for _ in range(steps):
        for side, own in zip(sides, found, strict=True):
            dist.barrier()
            clock_s, cpu_s = time.perf_counter(), time.process_time()
            side.run()
            cpu_s = time.process_time() - cpu_s
            dist.barrier()
            clock_s = time.perf_counter() - clock_s
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                side.run()
            kernels = [event for event in seen.key_averages() if event.key.startswith("aten::")]
            products_s = 1e-6 * sum(event.self_cpu_time_total for event in kernels if event.key in PRODUCTS)
            others_s = 1e-6 * sum(event.self_cpu_time_total for event in kernels if event.key not in PRODUCTS)
            own.append([clock_s, cpu_s, products_s, others_s])
    rows = torch.tensor(found, dtype=torch.float64).amin(dim=1)
    dist.all_reduce(rows)
    rows[:, 0] /= dist.get_world_size()
    return [Breakdown(*row) for row in rows.tolist()]


def main() -> None:
    """Print the shares of CPU time, and how much of the ranks' time was waited away."""
    parser = argparse.ArgumentParser(description=__doc__)
    keys, names = [row.key for row in ROWS], [size.name for size in SIZES]
    parser.add_argument("--row", nargs="+", choices=keys, default=["1f1b-2", "1f1b-4", "data"])
    parser.add_argument("--size", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=6, help="of each side (default: 6)")
    asked = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    for row in (row for row in ROWS if row.key in asked.row):
        for size in (size for size in SIZES if size.name in asked.size):
            builds = (row.ours, *(peer.build for peer in row.peers))
            model = replace(size, layers=row.layers or size.layers)
            found = autopart.run(break_down, row.world, (model, builds, asked.steps), timeout_s=TIMEOUT_S)[0]
            for side, own in zip(("ours", *(peer.name for peer in row.peers)), found, strict=True):
                rest_s = max(0.0, own.cpu_s - own.products_s - own.kernels_s)
                idle = max(0.0, 1 - own.cpu_s / row.world / own.step_s)
                shares = [f"{part / own.cpu_s:.0%}" for part in (own.products_s, own.kernels_s, rest_s)]
                times = f"{own.step_s * 1e3:.1f}", f"{own.cpu_s * 1e3:.1f}"
                rows.append((row.work, side, size.name, *times, *shares, f"{idle:.0%}"))
    print("\n".join(grid(rows, HEADERS, "lll" + "r" * 6)))


if __name__ == "__main__":
    main()
