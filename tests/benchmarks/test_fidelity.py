"""The published runs are read, repeated through the public API, and measured as documented."""

from dataclasses import replace
from pathlib import Path

import pytest

from cost_models.cluster import load_cluster
from cost_models.stack import load_stack, stack_names
from tests.benchmarks.fidelity.constants import CONSTANTS
from tests.benchmarks.fidelity.evaluate import Outcome, outcome_of
from tests.benchmarks.fidelity.measures import feasibility_of, measures_of, sweeps_of
from tests.benchmarks.fidelity.report import scatter, tables, unseen
from tests.benchmarks.fidelity.run import Run, read_runs, read_table
from tests.benchmarks.fidelity.setting import NotEvaluatedError, cuts_of, setting_of

DATA = Path(__file__).parent / "data/published_runs.csv"
RUNS = {run.id: run for run in read_runs(DATA)}
# One run of each kind: a single GPU, tensor parallelism, interleaved and zero-bubble pipelines, ZeRO-3, float8, context
# parallelism, BLOOM's slow network.
SAMPLE = (
    "mlm2020_a100_1B",
    "kor22_t5_22B_seqsel",
    "kor22_t5_175B_full",
    "zb_1.5B_m24_ZB-1p",
    "bloom_final_176B",
    "dgxc_2502_llama31_8b_fp8_16",
    "dgxc_2502_nemotron4_15b_bf16_64",
    "tt_8b_8_compile_fp8",
    "fms_13b_a100",
    "mpt_h100_80gb_7b_s2048_8_39",
)


def test_all_runs_are_read() -> None:
    assert len(RUNS) == 372
    assert sum(run.out_of_memory for run in RUNS.values()) == 6
    assert sum(run.peak_gib is not None for run in RUNS.values()) == 68
    for run in RUNS.values():
        assert run.tp * run.pp * run.dp * run.cp == run.gpus, run.id


@pytest.mark.parametrize("run", RUNS.values(), ids=lambda run: run.id)
def test_every_run_has_a_setting(run: Run) -> None:
    """Its stack and cluster exist, and its stages cover all layers."""
    setting = setting_of(run, stack_names())
    load_stack(setting.keywords["stack"])
    load_cluster(setting.keywords["cluster"])
    cuts = cuts_of(run)
    assert (len(cuts) if cuts else 0) == run.pp * run.virtual_stages - 1


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("fms_old_7b_a100", "fms-fsdp-eager-hybrid"),
        ("fms_7b_h100", "fms-fsdp-hybrid"),
        ("tt_a100_70b_full", "torchtitan-eager"),
        ("tt_70b_256_2d_asynctp_fp8", "torchtitan-async-tp"),
        ("bloom_final_176B", "megatron-deepspeed-2022-bf16-blocking"),
        ("bloom_best5_bf16_200B_80", "megatron-deepspeed-2022"),
        ("vtrain_39.1B_512_tp4dp8pp16_mb6", "megatron-deepspeed-2022"),
        ("neox20b", "gpt-neox"),
    ],
)
def test_a_run_has_the_stack_as_it_was_used(name: str, stack: str) -> None:
    assert setting_of(RUNS[name], stack_names()).keywords["stack"] == stack


@pytest.mark.parametrize("name", SAMPLE)
def test_a_run_is_predicted(name: str) -> None:
    """Within twice the band that docs/fidelity.md gives: a broken formula is off by more."""
    outcome = outcome_of(RUNS[name], {}, {})
    assert outcome.reason == ""
    assert outcome.time_error == pytest.approx(0, abs=0.15)
    if outcome.run.peak_gib is not None:
        assert outcome.memory_error == pytest.approx(0, abs=0.35)


def test_a_constant_changes_what_it_is_of_only() -> None:
    captured: dict[object, object] = {}
    run = RUNS["mlm2020_a100_1B"]
    plain = outcome_of(run, captured, {}).step_s
    for constant in CONSTANTS:
        value = constant.value()
        assert constant.least <= value <= constant.most, str(constant)
        setting = setting_of(run, stack_names())
        cluster, stack = load_cluster(setting.keywords["cluster"]), load_stack(setting.keywords["stack"])
        moved = outcome_of(run, captured, {constant: 0.9 * value}).step_s
        used = constant.concerns(cluster, stack) and "attention" not in constant.field
        assert (moved != plain) == (used and constant.field != "speed_spread"), str(constant)


def test_what_is_not_known_is_said() -> None:
    run = RUNS["mlm2020_a100_1B"]
    for odd in (
        replace(run, gpu="tpu-v4"),
        replace(run, family="mamba"),
        replace(run, family="deepseek-v3"),
        replace(run, family="Qwen3_30B_a3B"),
        replace(run, stack="DeepSpeed ZeRO-Offload"),
        replace(run, precision="fp4"),
        replace(run, ep=2),
        replace(run, dp=3),
    ):
        with pytest.raises(NotEvaluatedError):
            setting_of(odd, stack_names())
        assert outcome_of(odd, {}, {}).reason


HEAD = "micro_batch,gpu,stack,id,measured_step_time_s,layers,hidden,heads,seq_len,gpus,global_batch,family,unasked"
FILE = (
    HEAD,
    "4,a100-sxm-80gb,megatron-2021,a_known,1.0,4,1024,16,1024,1,8,gpt,x",
    ",A100-PCIe-80GB,Megatron-LM (own fork),b_like, ,4,1024,16,1024,2,8,pythia,",
    "4,h800,some-fsdp,c_like,1.0,4,1024,16,1024,1,8,gpt-like,y",
    "4,tpu-v4,jax,d_gpu,1.0,4,1024,16,1024,1,8,gpt,",
    "4,a100-sxm-80gb,megatron-2021,e_cell,1.0,many,1024,16,1024,1,8,gpt,",
    "4,a100-sxm-80gb,megatron-2021,f_short,1.0",
    "3,a100-sxm-80gb,megatron-2021,g_batch,1.0,4,1024,16,1024,1,8,gpt,",
    "4,a100-sxm-80gb,megatron-2021,h_heads,1.0,4,1024,7,1024,1,8,gpt,",
    ",,,,,,,,,,,,",
)


def test_a_file_of_others_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Columns in another order or missing, cells that are empty or no numbers, names that are not known here."""
    path = tmp_path / "runs.csv"
    path.write_text("\ufeff" + "\r\n".join(FILE), encoding="utf-8")
    runs, unread = read_table(path)
    assert [run.id for run in runs] == ["a_known", "b_like", "c_like", "d_gpu", "g_batch", "h_heads"]
    assert dict(unread) == {
        "e_cell": "column 'layers' is 'many', not a number",
        "f_short": "column 'heads' is missing or empty",
        "row 9": "column 'heads' is missing or empty",
    }
    captured: dict[object, object] = {}
    found = {run.id: outcome_of(run, captured, {}) for run in runs}
    assert all(found[name].step_s for name in ("a_known", "b_like", "c_like"))
    assert found["a_known"].assumed == ""
    stood_in = (
        "stack 'Megatron-LM (own fork)' as megatron-2021, 'A100-PCIe-80GB' as in dgx-a100, family 'pythia' as gpt"
    )
    assert found["b_like"].assumed == stood_in
    assert found["c_like"].assumed == "stack 'some-fsdp' as fms-fsdp-eager, family 'gpt-like' as gpt"
    assert found["b_like"].run.dp == 2
    assert "tpu-v4" in found["d_gpu"].reason
    assert "micro_batch=3" in found["g_batch"].reason
    assert found["h_heads"].reason
    text = tables(list(found.values()), {}, unread)
    for name in ("d_gpu", "e_cell", "f_short", "g_batch", "h_heads", "row 9"):
        assert f"- {name}: " in text
    assert "as gpt: c_like" in text
    with pytest.raises(ValueError, match="row 'e_cell': column 'layers'"):
        read_runs(path)


@pytest.mark.parametrize(
    ("spelled", "cluster", "known"),
    [
        ("NVIDIA A100-SXM4-40GB", "dgx-a100-40gb", True),
        ("a100 40 GB", "dgx-a100-40gb", True),
        ("A100-80GB", "dgx-a100", True),
        ("A100 40GB PCIe", "dgx-a100-40gb", False),
        ("H100", "dgx-h100", True),
        ("H100-SXM5-80GB", "dgx-h100", True),
        ("h100-sxm-96gb-hbm2e-500w", "h100-96gb-400g", True),
        ("H100 PCIe", "h100-pcie", True),
        ("GH200", "dgx-h100", False),
        ("H200", "dgx-h200", True),
        ("Tesla V100-SXM2-16GB", "dgx-1", True),
        ("A800", "hgx-a800", True),
        ("GB200-NVL72", "dgx-b200", False),
    ],
)
def test_devices_are_known_by_other_spellings(spelled: str, cluster: str, known: bool) -> None:
    """What is only like a device that is known is named as a stand-in."""
    setting = setting_of(replace(RUNS["mlm2020_a100_1B"], gpu=spelled), stack_names())
    assert setting.keywords["cluster"] == cluster
    assert (setting.assumed == "") == known


@pytest.mark.parametrize(
    ("spelled", "gpu", "zero", "stack"),
    [
        ("DeepSpeed", "a100-sxm-80gb", 3, "fms-fsdp-eager"),
        ("DeepSpeed ZeRO-3 (2021)", "a100-sxm-80gb", 3, "deepspeed-zero3-2021"),
        ("megatron-2021", "a100-sxm-80gb", 3, "deepspeed-zero3-2021"),
        ("Megatron-Core 0.9", "h800", 1, "nemo-megatron-core"),
        ("Megatron-LM", "a100-sxm-80gb", 0, "megatron-2021"),
        ("own code", "h100", 3, "torchtitan"),
    ],
)
def test_stacks_are_taken_for_their_nearest(spelled: str, gpu: str, zero: int, stack: str) -> None:
    run = replace(RUNS["mlm2020_a100_1B"], stack=spelled, gpu=gpu, zero=zero)
    assert setting_of(run, stack_names()).keywords["stack"] == stack


def test_cells_are_read_as_people_write_them(tmp_path: Path) -> None:
    """Units, words for truth, and precisions, schedules and recomputation by other names."""
    head = f"{HEAD},peak_mem_gib,precision,schedule,recompute,pp,vp,sequence_parallel"
    path = tmp_path / "runs.csv"
    rows = (
        '2,H100,nemo,a_units,250 ms,8,1024,16,1k,16,8,llama,,"12,288 MiB",bfloat16,Interleaved 1F1B,True,4,2,yes',
        "2,H100,nemo,b_oom,OOM,8,1024,16,1024,16,8,llama,,,BF16-mixed,AFAB,sel,4,1,no",
        "2,H100,nemo,c_fp8,~1.5 s,8,1024,16,1024,16,8,llama,,,MXFP8,,no,1,1,0",
    )
    path.write_text("\n".join((head, *rows)), encoding="utf-8")
    runs = read_runs(path)
    assert [(run.step_s, run.peak_gib, run.seq_len, run.out_of_memory) for run in runs] == [
        (0.25, 12.0, 1024, False),
        (None, None, 1024, True),
        (1.5, None, 1024, False),
    ]
    assert [run.sequence_parallel for run in runs] == [True, False, False]
    asked = [setting_of(run, stack_names()).keywords for run in runs]
    assert [k["schedule"] for k in asked] == ["interleaved-1f1b", "gpipe", "1f1b"]
    assert [k["precision"] for k in asked] == ["bf16-mixed", "bf16-mixed", "fp8-mixed"]
    assert [k["recompute"] for k in asked] == ["full", "selective", "none"]


def test_what_nothing_was_fitted_to_is_read_and_shown() -> None:
    """Each has a setting, and is of an origin that has no run among the others."""
    unfitted = read_runs(DATA.parent / "unseen_runs.csv")
    assert not {run.origin for run in unfitted} & {run.origin for run in RUNS.values()}
    for run in unfitted:
        assert run.step_s is not None
        setting_of(run, stack_names())
    text = unseen(outcomes())
    assert "| x_11 " in text
    assert "y_1: no such GPU" in text


def outcomes() -> list[Outcome]:
    """A made-up sweep of twelve runs: the last predicted 20 % too slow, and one that ran out of memory."""
    base = RUNS["vtrain_3.6B_64_tp1dp64pp1_mb8"]
    found = [
        Outcome(replace(base, id=f"x_{i}", step_s=float(i + 1), peak_gib=10.0), float(i + 1), 11.0, True)
        for i in range(11)
    ]
    found.append(Outcome(replace(base, id="x_11", step_s=12.0, notes="SUSPECT"), 14.4, None, True))
    found.append(Outcome(replace(base, id="x_12", step_s=None, out_of_memory=True), 1.0, None, False))
    found.append(Outcome(replace(base, id="y_1", step_s=1.0), reason="no such GPU"))
    return found


def test_measures() -> None:
    own = measures_of(outcomes())
    assert (own.rows, own.clean_rows, own.memory_rows) == (12, 11, 11)
    assert own.mean == pytest.approx(0.2 / 12)
    assert own.clean_mean == own.bias == own.median == 0
    assert own.memory_mean == pytest.approx(0.1)
    (sweep,) = sweeps_of(outcomes())
    assert (sweep.rows, sweep.rank_correlation, sweep.lost) == (11, pytest.approx(1), 0)
    assert feasibility_of(outcomes()) == feasibility_of(outcomes()[:-1])
    assert (feasibility_of(outcomes()).found, feasibility_of(outcomes()).false) == (1, 0)


def test_the_report_names_what_is_missing(tmp_path: Path) -> None:
    text = tables(outcomes(), {})
    assert "y_1: no such GPU" in text
    assert "1 of 1 published out-of-memory points" in text
    scatter(outcomes(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
