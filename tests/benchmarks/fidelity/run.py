"""Run: one published training run, read from a row of a file like `tests/benchmarks/data/published_runs.csv`."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(_run(row) for row in csv.DictReader(file))


def _run(row: Mapping[str, str]) -> Run:
    def whole(name: str, default: int | None = None) -> int:
        text = (row.get(name) or "").strip()
        if not text and default is not None:
            return default
        try:
            return int(float(text))
        except ValueError as error:
            raise ValueError(f"row {row.get('id')!r}: column {name!r} is {text!r}, not a number") from error

    def number(name: str) -> float | None:
        text = (row.get(name) or "").strip()
        return float(text) if text else None

    heads, hidden = whole("heads"), whole("hidden")
    return Run(
        id=row["id"],
        source=row["source"],
        stack=row["stack"],
        family=row["family"],
        layers=whole("layers"),
        hidden=hidden,
        ffn_hidden=whole("ffn_hidden", 4 * hidden),
        heads=heads,
        kv_heads=whole("kv_heads", heads),
        vocab=whole("vocab", 0) or None,
        seq_len=whole("seq_len"),
        gpu=row["gpu"],
        gpus=whole("gpus"),
        tp=whole("tp", 1),
        pp=whole("pp", 1),
        dp=whole("dp", 1),
        cp=whole("cp", 1),
        ep=whole("ep", 1),
        virtual_stages=whole("vp", 1),
        zero=whole("zero", 0),
        hybrid_shard=whole("hsdp", 0) == 1,
        sequence_parallel=whole("sequence_parallel", 0) == 1,
        global_batch=whole("global_batch"),
        micro_batch=whole("micro_batch"),
        recompute=row["recompute"] or "none",
        recompute_detail=row.get("recompute_detail") or row["recompute"],
        precision=row["precision"],
        precision_detail=row.get("precision_detail") or row["precision"],
        schedule=row["schedule"] or "none",
        out_of_memory=(row.get("outcome") or "ok").lower() == "oom",
        step_s=number("measured_step_time_s"),
        peak_gib=number("peak_mem_gib"),
        notes=row.get("notes") or "",
    )
