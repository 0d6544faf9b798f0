"""Errors: each is one of autopart's own, with the numbers and the next step."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autopart
from tests.models import ResidualMLP

BATCH = torch.zeros(8, 8)


def mlp(device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return ResidualMLP()


def mean(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return output.mean()


def planned(world: int = 4, **keywords: Any) -> autopart.Plan:
    settings: dict[str, Any] = {"global_batch": 8, "inputs": BATCH, "loss": mean, **keywords}
    return autopart.plan(mlp("meta"), world, **settings)


def parallel(world: int, **keywords: Any) -> autopart.Parallel[autopart.Plan]:
    settings: dict[str, Any] = {"global_batch": 8, "inputs": BATCH, "loss": mean, **keywords}
    return autopart.parallelize(mlp(), world, **settings)


class TestPlanning:
    def test_a_world_that_no_factorisation_fits(self) -> None:
        with pytest.raises(
            autopart.PlanningError, match=r"no tp x pp x dp makes world=23: .*global_batch=8; try world=8"
        ):
            planned(23)

    def test_the_world_that_it_names_works(self) -> None:
        with pytest.raises(autopart.PlanningError) as caught:
            planned(23)
        world = re.search(r"try world=(\d+)", str(caught.value))
        assert world is not None
        assert planned(int(world[1])).world == int(world[1])

    def test_a_model_without_weights(self) -> None:
        with pytest.raises(autopart.UnsupportedError, match="ReLU has no parameters that it computes with"):
            autopart.plan(nn.ReLU(), 2, inputs=BATCH, loss=mean)

    def test_a_batch_that_does_not_divide(self) -> None:
        with pytest.raises(
            autopart.PinError, match="global_batch=10 cannot be shared by dp=4 replicas: nearest batches are 8 and 12"
        ):
            planned(4, dp=4, global_batch=10)
        assert planned(4, dp=4, global_batch=12).micro_batches >= 1

    def test_an_unknown_cluster(self) -> None:
        with pytest.raises(
            autopart.UnknownNameError, match=r"unknown cluster 'dgx-h1000'; known: .*dgx-a100, .*dgx-h100"
        ):
            planned(cluster="dgx-h1000")

    def test_a_cluster_file_that_is_not_there(self) -> None:
        with pytest.raises(
            autopart.UnknownNameError, match=r"there is no cluster file 'mine\.toml'; known: .*dgx-h100"
        ):
            planned(cluster="mine.toml")

    def test_an_unknown_schedule(self) -> None:
        with pytest.raises(autopart.UnknownNameError, match=r"'zigzag'.*1f1b.*gpipe"):
            planned(pp=2, schedule="zigzag")

    def test_a_schedule_that_cannot_train(self) -> None:
        plan = planned(2, pp=2, schedule="forward-only")
        assert plan.schedule == "forward-only"
        with pytest.raises(
            autopart.UnsupportedError, match=r"'forward-only' has no backward pass.* one of 1f1b, gpipe"
        ):
            parallel(2, pp=2, schedule="forward-only")

    def test_a_schedule_for_several_stages_a_rank(self) -> None:
        with pytest.raises(autopart.PlanningError, match="'zb-v' takes 2 virtual stages a rank, not 1"):
            planned(2, pp=2, schedule="zb-v", virtual_stages=1)
        assert planned(2, pp=2, schedule="zb-v").virtual_stages == 2, "found where it is left out"

    @pytest.mark.parametrize(
        ("pins", "message"),
        [
            (
                {"zero": 3, "world": 4, "dp": 2, "pp": 2, "schedule": "zb-h1"},
                "zero=3 keeps no whole gradients, and schedule 'zb-h1' puts part of them off",
            ),
            (
                {"precision": "fp8-mixed"},
                "precision='fp8-mixed' can be planned but not run yet: choose among as-built,",
            ),
        ],
    )
    def test_what_is_planned_only(self, pins: dict[str, Any], message: str) -> None:
        pins = {"world": 1} | pins
        assert planned(**pins).world == pins["world"]
        with pytest.raises(autopart.UnsupportedError, match=message):
            parallel(**pins)

    def test_unknown_policies(self) -> None:
        with pytest.raises(autopart.PinError, match="recompute='half': known are 'none', 'selective', 'full', and a"):
            planned(recompute="half")
        with pytest.raises(autopart.PinError, match="recompute='full:3/2'"):
            planned(recompute="full:3/2")
        with pytest.raises(autopart.PinError, match="zero=4: the ZeRO stages are 0, 1, 2 and 3"):
            planned(zero=4)
        with pytest.raises(autopart.UnknownNameError, match="unknown precision 'half'; known: as-built, bf16-mixed"):
            planned(precision="half")
        with pytest.raises(
            autopart.UnknownNameError,
            match="unknown stack 'jax'; known: alpa, autopart, deepspeed-zero3-2021, fms-fsdp",
        ):
            planned(stack="jax")
        with pytest.raises(autopart.PinError, match="cp=5 does not divide the sequence of"):
            planned(cp=5, world=5)

    def test_no_world(self) -> None:
        with pytest.raises(autopart.PinError, match=r"world is missing: parallelize\(model, world=64\)"):
            autopart.parallelize(mlp("meta"))

    @pytest.mark.parametrize("cuts", [["nowhere"], ["enter"]])
    def test_cuts_at_no_place(self, cuts: list[str]) -> None:
        with pytest.raises(
            autopart.PinError, match=f"no stage can begin at '{cuts[0]}': the places are layers.0, .*leave"
        ):
            planned(cuts=cuts)

    def test_cuts_out_of_order(self) -> None:
        with pytest.raises(
            autopart.PinError, match=r"cuts must be in the order of the model, each once: layers.2, layers.1"
        ):
            planned(3, cuts=["layers.2", "layers.1"])

    def test_an_untraceable_model(self) -> None:
        class Branching(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) if x.sum() > 0 else x  # decides

        number = next(
            index
            for index, line in enumerate(Path(__file__).read_text(encoding="utf-8").splitlines(), 1)
            if line.endswith("# decides")
        )
        with pytest.raises(
            autopart.CaptureError, match=rf"(?s)Branching .*test_errors\.py:{number}: .*use torch\.where"
        ):
            autopart.plan(Branching(8, 8), 4, inputs=BATCH)

    def test_a_batch_that_the_model_cannot_take(self) -> None:
        with pytest.raises(autopart.CaptureError, match=r"(?s)ResidualMLP cannot be captured.*models\.py:\d+"):
            autopart.plan(mlp("meta"), 4, inputs=torch.zeros(8, 9))


class TestPlansOfOthers:
    def test_another_model(self) -> None:
        with pytest.raises(
            autopart.PlanMismatchError,
            match=r"the plan was made for ResidualMLP with graph .* this Sequential has graph",
        ):
            autopart.parallelize(nn.Sequential(nn.Linear(8, 8)), plan=planned())

    def test_another_depth(self) -> None:
        with pytest.raises(
            autopart.PlanMismatchError, match="another model, other input shapes, or another version of torch"
        ):
            autopart.parallelize(ResidualMLP(layers=5), plan=planned(), inputs=BATCH, loss=mean)

    def test_other_input_shapes(self) -> None:
        plan = autopart.plan(nn.Sequential(nn.Linear(8, 8)), 2, global_batch=8, inputs=torch.zeros(8, 3, 8))
        with pytest.raises(autopart.PlanMismatchError, match="plan again"):
            autopart.parallelize(nn.Sequential(nn.Linear(8, 8)), plan=plan, inputs=torch.zeros(8, 5, 8))

    def test_another_world(self) -> None:
        with pytest.raises(autopart.PlanMismatchError, match="the plan is for world=4, not 8: plan again with world=8"):
            autopart.parallelize(mlp(), 8, plan=planned(), inputs=BATCH, loss=mean)

    def test_another_batch(self) -> None:
        with pytest.raises(autopart.PlanMismatchError, match="the plan is for global_batch=8, not 16: plan again"):
            autopart.parallelize(mlp(), plan=planned(), inputs=BATCH, loss=mean, global_batch=16)

    def test_a_pin_beside_a_plan(self) -> None:
        with pytest.raises(autopart.PinError, match="tp= is given beside plan="):
            autopart.parallelize(mlp(), plan=planned(), inputs=BATCH, loss=mean, tp=2)

    def test_a_choice_that_no_rule_allows(self, tmp_path: Path) -> None:
        """A plan file decides among the known ways to compute a node; it cannot bring in another."""
        path = tmp_path / "plan.json"
        planned(tp=2, pp=1, dp=2).save(path)
        data = json.loads(path.read_text())
        data["nodes"][0]["call"] = "os.system"
        path.write_text(json.dumps(data))
        with pytest.raises(autopart.PlanMismatchError, match="is not one that this version knows: plan again"):
            autopart.parallelize(mlp(), plan=autopart.load_plan(path), inputs=BATCH, loss=mean)

    @staticmethod
    def changed(tmp_path: Path, **entries: object) -> Path:
        """A saved plan of two stages with other entries."""
        path = tmp_path / "plan.json"
        planned(tp=1, pp=2, dp=2).save(path)
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
        return path

    def test_an_unknown_schedule(self, tmp_path: Path) -> None:
        plan = autopart.load_plan(self.changed(tmp_path, schedule="zigzag"))
        with pytest.raises(autopart.UnknownNameError, match="zigzag"):
            autopart.parallelize(mlp(), plan=plan, inputs=BATCH, loss=mean)

    @pytest.mark.parametrize("cuts", [[99], [0], [-1], [1]])
    def test_cuts_that_are_not_those_of_the_stages(self, cuts: list[int], tmp_path: Path) -> None:
        assert planned(tp=1, pp=2, dp=2).cuts != (1,)
        with pytest.raises(
            autopart.PlanFileError, match=r"'cuts' is .*, and 'stages' are of units 0 to \d+, \d+ to \d+"
        ):
            autopart.load_plan(self.changed(tmp_path, cuts=cuts))

    def test_a_model_that_is_divided_otherwise(self) -> None:
        """Another version of autopart may fold the same graph into other units."""
        plan = planned(tp=1, pp=2, dp=2)
        last = replace(plan.stages[-1], stop=plan.stages[-1].stop + 1)
        with pytest.raises(autopart.PlanMismatchError, match=r"divides \d+ pieces among its stages, .* plan again"):
            autopart.parallelize(mlp(), plan=replace(plan, stages=(plan.stages[0], last)), inputs=BATCH, loss=mean)


class TestPlanFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\x80\x04\x95\x00", "is not text in UTF-8"),
            (b"{", "is not JSON"),
            (b"{}", "is not an autopart plan"),
            (b'{"autopart_plan": 0}', "has plan format 0"),
        ],
    )
    def test_damaged(self, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        path.write_bytes(content)
        with pytest.raises(autopart.PlanFileError, match=message):
            autopart.load_plan(path)

    def test_half_written(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        planned().save(path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(autopart.PlanFileError, match="is not JSON"):
            autopart.load_plan(path)

    def test_every_missing_entry_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        planned().save(path)
        data = json.loads(path.read_text())
        for name in data:
            if name == "autopart_plan":
                continue
            path.write_text(json.dumps({key: value for key, value in data.items() if key != name}))
            with pytest.raises(autopart.PlanFileError, match=f"entry '{name}' is missing"):
                autopart.load_plan(path)

    def test_a_pickle_is_not_loaded(self, tmp_path: Path) -> None:
        """Nothing in a file is executed, whatever it pretends to be."""
        witness = tmp_path / "executed"
        path = tmp_path / "plan.json"
        torch.save(_Bomb(str(witness)), path)
        with pytest.raises(autopart.PlanFileError):
            autopart.load_plan(path)
        assert not witness.exists()


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.path,)


class TestOutsideAJob:
    @pytest.mark.parametrize(
        "call",
        [
            lambda par: par.train_step(BATCH),
            lambda par: par.shard_batch(BATCH),
            lambda par: par.parameters(),
            lambda par: par.named_parameters(),
            lambda par: par.full_state_dict(),
            lambda par: par.full_gradients(),
        ],
        ids=["train_step", "shard_batch", "parameters", "named_parameters", "full_state_dict", "full_gradients"],
    )
    def test_the_command_that_starts_one(self, call: Callable[[Any], Any]) -> None:
        with pytest.raises(autopart.LaunchError) as caught:
            call(parallel(4))
        assert "the plan is for 4 ranks, this process is in no job" in str(caught.value)
        assert "`torchrun --nproc-per-node 4 SCRIPT.py`" in str(caught.value)
        assert "autopart.run(function, world=4)" in str(caught.value)

    def test_several_nodes(self) -> None:
        with pytest.raises(autopart.LaunchError, match=r"torchrun --nnodes 2 .* --nproc-per-node 8 SCRIPT.py"):
            parallel(16, global_batch=32).train_step(BATCH)

    def test_it_has_no_module(self) -> None:
        assert parallel(4).module is None
