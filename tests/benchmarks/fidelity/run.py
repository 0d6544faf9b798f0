"""Run: one published training run, read from a row of a file like `tests/benchmarks/data/published_runs.csv`."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_UNPUBLISHED = (
    "",
    "-",
    "?",
    "n/a",
    "na",
    "nan",
    "none",
    "n/s",
    "nr",
    "tbd",
    "unknown",
    "not published",
    "not reported",
)
_OOM = ("oom", "out of memory", "out-of-memory", "cuda oom")
_TRUTHS = {"yes": "1", "true": "1", "on": "1", "no": "0", "false": "0", "off": "0"}
# What a cell may have behind its number, in the unit of its column; "GB" is as torch and nvidia-smi print it.
_UNITS = {
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "min": 60.0,
    "gib": 1.0,
    "gb": 1.0,
    "mib": 1 / 1024,
    "mb": 1 / 1024,
    "k": 1024.0,
    "gpus": 1.0,
    "layers": 1.0,
}
_NUMBER = re.compile(r"[~≈]?\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*([a-z]*)")


@dataclass(frozen=True, slots=True)
class Run:
    """What ran and what was measured; None where the source does not say. `peak_gib` is of the fullest device."""

    id: str
    source: str
    stack: str
    family: str
    layers: int
    hidden: int
    ffn_hidden: int
    heads: int
    kv_heads: int
    vocab: int | None
    seq_len: int
    gpu: str
    gpus: int
    tp: int
    pp: int
    dp: int
    cp: int
    ep: int
    virtual_stages: int
    zero: int
    hybrid_shard: bool
    sequence_parallel: bool
    global_batch: int
    micro_batch: int
    recompute: str
    recompute_detail: str
    precision: str
    precision_detail: str
    schedule: str
    out_of_memory: bool
    step_s: float | None
    peak_gib: float | None
    notes: str

    @property
    def origin(self) -> str:
        """Who measured it: runs of one origin share machines and habits. The first word of the id."""
        return self.id.split("_")[0]

    @property
    def sweep(self) -> tuple[object, ...]:
        """Equal for runs that differ in their layouts only."""
        return (
            self.origin,
            self.layers,
            self.hidden,
            self.heads,
            self.vocab,
            self.seq_len,
            self.gpu,
            self.gpus,
            self.global_batch,
            self.precision,
        )

    @property
    def suspect(self) -> bool:
        """Whether whoever collected the rows doubts it, or its tensor parallelism crosses nodes."""
        return "SUSPECT" in self.notes or "suspicious" in self.notes or self.tp > 8


def read_runs(path: Path) -> tuple[Run, ...]:
    """All rows of a file.

    Raises:
        ValueError: a column that is missing, or an entry that cannot be read; the message names row and column.
    """
    runs, unread = read_table(path)
    if unread:
        raise ValueError(f"row {unread[0][0]!r}: {unread[0][1]}")
    return runs


def read_table(path: Path) -> tuple[tuple[Run, ...], tuple[tuple[str, str], ...]]:
    """The runs of a file whose rows can be read; and of the others, what they are called and why they cannot."""
    runs, unread = [], []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            cells = {(name or "").strip(): (text or "").strip() for name, text in row.items() if isinstance(text, str)}
            name = cells.get("id") or f"row {number}"
            try:
                runs.append(_run(cells | {"id": name}))
            except ValueError as error:
                unread.append((name, str(error)))
    return tuple(runs), tuple(unread)


def _run(row: Mapping[str, str]) -> Run:
    def text(name: str, default: str) -> str:
        return row.get(name) or default

    def number(name: str) -> float | None:
        """A figure that may be unpublished."""
        cell = row.get(name, "").replace(",", "").lower()
        cell = _TRUTHS.get(cell, cell)
        if cell in (*_UNPUBLISHED, *_OOM):
            return None
        found = _NUMBER.fullmatch(cell)
        try:
            if found is None or (found[2] and found[2] not in _UNITS):
                raise ValueError("another form")
            return float(found[1]) * _UNITS.get(found[2], 1.0)
        except ValueError as error:
            raise ValueError(f"column {name!r} is {row[name]!r}, not a number") from error

    def whole(name: str, default: int | None = None) -> int:
        found = number(name)
        if found is None and default is None:
            raise ValueError(f"column {name!r} is missing or empty")
        size = default if found is None else int(found)
        if size is None or size < 0 or (found is not None and found != size):
            raise ValueError(f"column {name!r} is {row.get(name)!r}, not a whole number")
        return size

    heads, hidden, gpus = whole("heads"), whole("hidden"), whole("gpus")
    tp, pp, cp = whole("tp", 1), whole("pp", 1), whole("cp", 1)
    dp = whole("dp", max(1, gpus // max(1, tp * pp * cp)))
    global_batch = whole("global_batch")
    if min(heads, hidden, gpus, tp, pp, cp, dp, global_batch) < 1:
        raise ValueError("one of heads, hidden, gpus, tp, pp, cp, dp and global_batch is 0")
    return Run(
        id=row["id"],
        source=text("source", ""),
        stack=text("stack", ""),
        family=text("family", ""),
        layers=whole("layers"),
        hidden=hidden,
        ffn_hidden=whole("ffn_hidden", 4 * hidden),
        heads=heads,
        kv_heads=whole("kv_heads", heads) or heads,
        vocab=whole("vocab", 0) or None,
        seq_len=whole("seq_len"),
        gpu=text("gpu", ""),
        gpus=gpus,
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=whole("ep", 1),
        virtual_stages=max(1, whole("vp", 1)),
        zero=whole("zero", 0),
        hybrid_shard=whole("hsdp", 0) == 1,
        sequence_parallel=whole("sequence_parallel", 0) == 1,
        global_batch=global_batch,
        micro_batch=max(1, whole("micro_batch", 1)),
        recompute=text("recompute", "none"),
        recompute_detail=text("recompute_detail", text("recompute", "")),
        precision=text("precision", "bf16").lower(),
        precision_detail=text("precision_detail", text("precision", "")),
        schedule=text("schedule", "none"),
        out_of_memory=any(
            text(name, "").lower() in _OOM for name in ("outcome", "measured_step_time_s", "peak_mem_gib")
        ),
        step_s=number("measured_step_time_s") or None,
        peak_gib=number("peak_mem_gib") or None,
        notes=text("notes", ""),
    )
