"""One call, and nothing else: a plan, its printout and its sources for models of every kind."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autopart
from tests.capture.models import tiny_gpt, tiny_llama, token_batch


class LightningStyle(nn.Module):
    """A module as Lightning has it: it knows an example of its input, and its forward gives the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(2, 32)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(self.layers(x), x)


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "hugging face on meta": tiny_llama,
    "lightning": LightningStyle,
    "sequential": sequential,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_world_and_nothing_else(name: str, tmp_path: Path) -> None:
    model = BUILDERS[name]()
    par = autopart.parallelize(model, world=64)
    plan = par.plan
    assert plan.world == plan.tp * plan.pp * plan.dp == 64
    assert plan.parameter_count == sum(parameter.numel() for parameter in model.parameters())
    printed = str(plan)
    assert printed.startswith(f"{type(model).__name__}, ")
    assert "on dgx-h100: 8 nodes × 8 h100-sxm-80gb = 64 devices" in printed
    assert "cluster: left out: dgx-h100; set it with cluster=" in printed
    assert "global_batch: left out" in printed.replace("\n", " ")
    assert_emits(par, tmp_path)


def assert_emits(par: Any, folder: Path) -> None:
    """Every file is Python that needs torch and autopart.runtime alone; the plan lies beside them."""
    paths = par.emit(folder / "emitted")
    assert [path.stem for path in paths] == [stem for stem, _ in par.program.sources]
    assert {stage.module for stage in par.program.stages} == {path.stem for path in paths}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
        imported = {node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for alias in n.names}
        assert all(name.split(".")[0] == "torch" or name == "autopart.runtime" for name in imported)
    assert autopart.load_plan(folder / "emitted" / "plan.json") == par.plan


@pytest.mark.parametrize("name", ["lightning", "sequential"])
def test_the_plan_of_plan_is_that_of_parallelize(name: str) -> None:
    model = BUILDERS[name]()
    assert autopart.plan(model, 8, global_batch=64) == autopart.parallelize(model, 8, global_batch=64).plan


def test_a_plan_of_one_front_end_is_one_of_the_other() -> None:
    keywords: dict[str, Any] = {"global_batch": 16, "inputs": token_batch(), "tp": 2, "pp": 2}
    exported = autopart.plan(tiny_gpt("meta"), 4, front_end="torch_export", **keywords)
    assert autopart.plan(tiny_gpt("meta"), 4, front_end="fx_trace", **keywords) == exported
    inputs = token_batch()
    programs = {
        front_end: autopart.parallelize(tiny_gpt("cpu"), plan=exported, inputs=inputs, front_end=front_end).program
        for front_end in ("torch_export", "fx_trace")
    }
    assert programs["torch_export"] == programs["fx_trace"]


def test_an_unknown_front_end() -> None:
    with pytest.raises(autopart.UnknownNameError, match=r"'onnx'; known front ends: fx_trace, torch_export"):
        autopart.plan(tiny_gpt("meta"), 4, inputs=token_batch(), front_end="onnx")


PINS: list[dict[str, Any]] = [
    {"tp": 2, "pp": 2, "dp": 2},
    {"tp": 4, "pp": 1, "dp": 2},
    {"tp": 1, "pp": 4, "dp": 2, "recompute": "full"},
    {"tp": 2, "pp": 4, "dp": 1, "schedule": "gpipe"},
]


@pytest.mark.parametrize("pins", PINS, ids=lambda pins: "-".join(map(str, pins.values())))
def test_a_saved_plan_gives_the_same_program(pins: dict[str, Any], tmp_path: Path) -> None:
    """Planned on meta, saved, and used where the model is real."""
    first = autopart.parallelize(tiny_gpt("meta"), 8, global_batch=16, inputs=token_batch(), **pins)
    first.plan.save(tmp_path / "plan.json")
    plan = autopart.load_plan(tmp_path / "plan.json")
    assert {name: getattr(plan, name) for name in pins} == pins
    again = autopart.parallelize(tiny_gpt("cpu"), plan=plan, inputs=token_batch())
    assert again.plan == first.plan
    assert str(again.plan) == str(first.plan)
    assert again.program == first.program
    assert_emits(again, tmp_path)


def test_planning_is_the_same_every_time() -> None:
    plans = [autopart.plan(tiny_gpt(layers=2), 4, global_batch=8, inputs=token_batch()) for _ in range(2)]
    assert plans[0] == plans[1]


def test_cuts_by_the_names_of_modules() -> None:
    plan = autopart.plan(tiny_gpt(), 3, global_batch=6, inputs=token_batch(), cuts=["blocks.1", "blocks.3"])
    assert [stage.first for stage in plan.stages] == ["wte", "blocks.1", "blocks.3"]
    assert plan.stages[-1].last == "lm_head"


def test_a_module_inside_a_place_names_it() -> None:
    """`transformer` begins where its first layer does."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 8))
    plan = autopart.plan(model, 2, global_batch=8, cuts=["1"])
    assert [stage.first for stage in plan.stages] == ["0", "1.0"]


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_llama("cpu").train()
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    cache = model.config.use_cache  # type: ignore[union-attr]
    autopart.parallelize(model, 4, global_batch=8)
    assert model.training
    assert model.config.use_cache == cache  # type: ignore[union-attr]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_function() -> None:
    def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
        return F.cross_entropy(output, batch["target"])

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = sequential()

        def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    batch = {"x": torch.zeros(4, 16), "target": torch.zeros(4, dtype=torch.long)}
    par = autopart.parallelize(Classifier(), 4, inputs=batch, loss=loss, global_batch=16, pp=2, tp=1, schedule="1f1b")
    assert repr(par) == "Parallel(Classifier, tp=1, pp=2, dp=2, 1f1b; outside a job)"
    assert par.program.has_loss
    assert not any(note.subject == "loss" for note in par.plan.notes)
    assert par.program.stages[-1].inputs == ("target",)


def test_a_model_without_a_loss_says_so() -> None:
    plan = autopart.plan(sequential(), 4)
    assert [note.text for note in plan.notes if note.subject == "loss"] == [
        "the model returns none: priced without; to train, pass loss=, a function of (output, batch)"
    ]


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (lambda: tiny_llama(max_position_embeddings=4096), 1024),  # 4 Mi tokens of 4096
        (lambda: tiny_llama(max_position_embeddings=448), 9216),  # of 9362 = 2 x 31 x 151 samples
        (sequential, 4 * 32),
    ],
    ids=["tokens", "odd tokens", "samples"],
)
def test_the_batch_where_none_is_given(build: Callable[[], nn.Module], batch: int) -> None:
    assert autopart.plan(build(), 4).global_batch == batch


def test_prediction_is_consistent() -> None:
    plan = autopart.plan(tiny_gpt(), 8, global_batch=64, inputs=token_batch(), pp=2, schedule="1f1b")
    predicted = plan.predicted
    assert predicted.samples_per_s == pytest.approx(64 / predicted.step_time_s)
    assert predicted.tokens_per_s == pytest.approx(16 * predicted.samples_per_s)
    assert len(predicted.peak_memory_bytes) == 2
    assert predicted.peak_memory_bytes == tuple(stage.memory.total_bytes for stage in plan.stages)
    assert 0 < predicted.mfu < 1
    assert 0 <= predicted.bubble_fraction < 1
    slowest = max(stage.forward_s + stage.backward_s for stage in plan.stages)
    assert predicted.step_time_s >= plan.micro_batches * slowest
    slower = [other.step_time_s for other in plan.alternatives]
    assert slower == sorted(slower)


def test_a_precision_is_what_products_are_computed_in() -> None:
    """Use of a device is of its peak in that dtype; where none is asked for, the plan says what float32 costs."""
    ready = autopart.prepare(tiny_gpt(), token_batch())
    plain, mixed = (
        autopart.plan(ready, 8, cluster="dgx-a100", global_batch=64, precision=precision)
        for precision in (None, "bf16-mixed")
    )
    for plan, peak in ((plain, 19.5e12), (mixed, 312e12)):
        assert plan.predicted.model_flops_per_gpu_per_s == pytest.approx(plan.predicted.mfu * peak)
    printed = " ".join(str(plain).split())
    assert (
        "precision: left out: products in float32, at most 20 TFLOP/s a device; precision='bf16-mixed' computes "
        "them in bfloat16, at most 312" in printed
    )
    old = autopart.plan(ready, 8, cluster="dgx-1", global_batch=64, precision="bf16-mixed")
    assert [note.text for note in old.notes if note.subject == "precision"] == [
        "bf16-mixed: products in bfloat16, at most 16 TFLOP/s a device; precision='fp16-mixed' computes them in "
        "float16, at most 125"
    ]
    slow = autopart.plan(ready, 8, cluster="local-cpu", global_batch=64)
    assert not any("precision" in note.subject for plan in (mixed, slow) for note in plan.notes)


def test_nodes_of_several_kinds(tmp_path: Path) -> None:
    """Each stage says what it is on; the file keeps it; a smaller world takes the first nodes."""
    ready = autopart.prepare(tiny_gpt(hidden=1024, context=128), token_batch(128))
    made = autopart.plan(ready, 64, cluster="dgx-h100-a100", global_batch=64, pp=2)
    devices = [stage.device for stage in made.stages]
    assert set(devices) == {"h100-sxm-80gb", "a100-sxm-80gb"} == {group.device for group in made.groups}
    assert [(group.devices, group.devices_per_node) for group in made.groups] == [(32, 8), (32, 8)]
    printed = str(made)
    assert "4 nodes × 8 h100-sxm-80gb" in printed and "4 nodes × 8 a100-sxm-80gb" in printed
    assert "(h100-sxm-80gb)" in printed and "(a100-sxm-80gb)" in printed
    assert "devices h100 → a100" in made.explain() or "devices a100 → h100" in made.explain()
    made.save(tmp_path / "plan.json")
    assert autopart.load_plan(tmp_path / "plan.json") == made
    assert autopart.plan(ready, 16, cluster="dgx-h100-a100", global_batch=64).device == "h100-sxm-80gb"
    with pytest.raises(autopart.PinError, match=r"has 64 devices, 32 h100-sxm-80gb . 32 a100-sxm-80gb: ask for no"):
        autopart.plan(ready, 128, cluster="dgx-h100-a100", global_batch=128)
