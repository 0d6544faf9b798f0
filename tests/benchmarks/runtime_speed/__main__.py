"""Ours against peers: `python -m tests.benchmarks.runtime_speed [--row KEY ...] [--size NAME ...] [--write]`."""

import argparse
import os
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

import autopart
from autopart.errors import WorkerError
from autopart.report.grid import grid
from tests.benchmarks.runtime_speed.compare import Compared, compare
from tests.benchmarks.runtime_speed.gpt import SIZES, Size
from tests.benchmarks.runtime_speed.rows import ROWS, Peer, Row

PAGE = Path(__file__).parents[3] / "docs/performance.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
TIMEOUT_S = 300.0  # of one row; it takes half a minute where nothing else runs
HEADERS = ("work", "against", "model", "ms", "theirs", "time", "bar", "quartiles", "CPU", "memory", "bar", "others")


def main() -> None:
    """Print the table; with --write, put it into docs/performance.md too."""
    parser = argparse.ArgumentParser(description=__doc__)
    keys, names = [row.key for row in ROWS], [size.name for size in SIZES]
    parser.add_argument("--row", nargs="+", choices=keys, default=keys)
    parser.add_argument("--size", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=16, help="pairs of blocks of steps (default: 16)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    asked = parser.parse_args()
    began, load = time.monotonic(), os.getloadavg()[0]
    rows: list[tuple[str, ...]] = []
    for row in ROWS:
        for size in SIZES:
            if row.key in asked.row and size.name in asked.size:
                rows += (found := _lines(row, size, asked.rounds))
                print("\n".join("  ".join(line) for line in found), flush=True)
    table = "\n".join(grid(rows, HEADERS, "lll" + "r" * 9))
    print(f"\n{table}\n{time.monotonic() - began:.0f} s; load {load:.1f} before")
    if asked.write:
        when = f"{date.today():%d %B %Y}, torch {torch.__version__}, {os.cpu_count()} cores, load {load:.1f} before"
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), table, when), encoding="utf-8")


def replaced(page: str, table: str, when: str) -> str:
    """The page with this table between its marks."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n{when}:\n```\n{table}\n```\n{END}{after}"


def _lines(row: Row, size: Size, rounds: int) -> list[tuple[str, ...]]:
    builds = tuple(peer.build for peer in row.peers)
    size = replace(size, layers=row.layers or size.layers)
    try:
        found = autopart.run(compare, row.world, (size, row.ours, builds, rounds), timeout_s=TIMEOUT_S)[0]
    except WorkerError as error:
        print(error)
        return [(row.work, peer.name, size.name, "failed", *[""] * 8) for peer in row.peers]
    return [_line(row, peer, size, one) for peer, one in zip(row.peers, found, strict=True)]


def _line(row: Row, peer: Peer, size: Size, found: Compared) -> tuple[str, ...]:
    low, middle, high = found.time_ratio
    return (
        row.work,
        peer.name,
        size.name,
        f"{found.step_s(0) * 1e3:.1f}",
        f"{found.step_s(1) * 1e3:.1f}",
        f"{middle:.3f}",
        f"{peer.bar:.2f}",
        f"{low:.2f} .. {high:.2f}",
        f"{found.cpu_ratio:.3f}",
        f"{found.peak_ratio:.3f}" if row.memory else "",
        "1.00" if row.memory else "",
        f"{found.others:.0%}",
    )


if __name__ == "__main__":
    main()
