"""The page of the search: how long it takes, what that grows with, and how it does against published layouts."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.search_published import KEEP, all_compared, chosen, summary, table
from tests.benchmarks.search_speed import GROWTH, TASKS, measured, speed_table

ROOT = Path(__file__).parents[2]
PAGE, PLOT = ROOT / "docs/search.md", ROOT / "docs/search.png"
TEXT = """# The search: how fast it is, and how good

`make search` writes this page. Times are of 2 cores that may be shared with other work, so CPU seconds stand beside
those of the clock; each is of a fresh process, without imports, with nothing cached. Bars are in brackets.

## How long it takes
A candidate is a combination of degrees, micro-batch, schedule, stages a rank, recomputation, ZeRO stage and layout.
For those in the column `cut`, stages were cut by the dynamic program; of the others a bound had shown that they are
neither the best nor among the runners-up, or do not fit the memory; of many before their layout was searched.
```
{speed}
```

## What that grows with
Equal layers are traced, priced and searched once. What grows with their number is naming their weights, and the places
where stages may begin. Devices add degrees to choose from, as many as their number has divisors.
```
{growth}
```
![CPU seconds by layers and by devices](search.png)

## Against published layouts
Every run of `tests/benchmarks/data/published_runs.csv` was predicted with the layout that was published, and planned
with nothing pinned, for the same model, devices, batch, precision and software. Both times are predictions; how good
these are is in [fidelity.md](fidelity.md). {summary}
```
{published}
```
"""


def main(arguments: list[str]) -> None:
    """Measure and print; with `--write`, write the page and its plot."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.search_speed")
    parser.add_argument("--write", action="store_true", help="write docs/search.md and docs/search.png, all tables")
    parser.add_argument("--growth", action="store_true", help="the table of what the cost grows with")
    parser.add_argument("--keep", type=Path, default=KEEP, help="comparisons as they are made, not to be made again")
    asked = parser.parse_args(arguments)
    if not asked.write:
        print(speed_table(measured(GROWTH if asked.growth else TASKS)))
        return
    speed, growth = measured(TASKS), measured(GROWTH)
    compared = all_compared(chosen(()), 2, print, asked.keep)
    _plot(growth)
    page = TEXT.format(
        speed=speed_table(speed), growth=speed_table(growth), summary=summary(compared), published=table(compared)
    )
    PAGE.write_text(page, encoding="utf-8")


def _plot(growth: Mapping[str, Mapping[str, Any]]) -> None:
    """CPU seconds of capture with search, and of the search from a saved graph."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, label in zip(figure.subplots(1, 2), ("layers", "devices"), strict=True):
        own = {name: found for name, found in growth.items() if ("layers" in name) == (label == "layers")}
        sizes = [GROWTH[name].sizes["layers"] if label == "layers" else GROWTH[name].world for name in own]
        for key, text in (("whole_cpu_s", "capture and search"), ("search_cpu_s", "search from a saved graph")):
            axes.plot(sizes, [found[key] for found in own.values()], marker="o", label=text)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="CPU seconds")
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.legend()
    figure.savefig(PLOT, dpi=120)
