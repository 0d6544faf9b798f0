"""The search over degrees: no pinned layout beats what it finds, and its errors say what helps."""

import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from autopart.errors import InfeasiblePlanError, PinError, PlanningError
from autopart.search.candidate import Candidate
from autopart.search.request import divisors, divisors_up_to
from tests.capture.models import tiny_gpt, token_batch
from tests.search.problems import Problem, problem

GIB = 2**30


@cache
def gpt() -> Problem:
    """Four layers, large enough for sharing to pay."""
    with torch.device("meta"):
        return problem(tiny_gpt(hidden=2048, vocab=8192, context=1024).bfloat16(), token_batch(1024))


@cache
def heavy() -> Problem:
    """32 layers of half a GiB in bfloat16: 16 GiB of parameters, and 48 more for gradients and AdamW's moments."""
    with torch.device("meta"):
        blocks = [nn.Sequential(nn.Linear(16384, 16384, bias=False), nn.ReLU()) for _ in range(32)]
        return problem(nn.Sequential(*blocks).to(torch.bfloat16), torch.empty(2, 16384, dtype=torch.bfloat16))


def degrees(candidate: Candidate) -> tuple[int, int, int]:
    return candidate.tp, candidate.pp, candidate.dp


class TestTheBest:
    @pytest.mark.parametrize("global_batch", [8, 64])
    def test_no_pinned_layout_is_better(self, global_batch: int) -> None:
        best = gpt().search(8, global_batch).run().best
        layouts = 0
        for tp, pp in [(a, b) for a in divisors(8) for b in divisors(8 // a)]:
            for recompute in ("none", "full"):
                pins = {"tp": tp, "pp": pp, "dp": 8 // tp // pp, "recompute": recompute}
                if pp > len(gpt().units):
                    continue
                pinned = gpt().search(8, global_batch, **pins).run().best
                assert best.step_s <= pinned.step_s * (1 + 1e-12), f"{pins} is faster than {degrees(best)}"
                layouts += 1
        assert layouts == 20

    def test_no_micro_batch_is_better(self) -> None:
        best = gpt().search(8, 64).run().best
        tp, pp, dp = degrees(best)
        for micro_batch in divisors_up_to(64 // dp, 32):
            pinned = gpt().search(8, 64, tp=tp, pp=pp, dp=dp, micro_batch=micro_batch).run().best
            assert best.step_s <= pinned.step_s * (1 + 1e-12)

    def test_it_is_among_the_space_that_was_asked_for(self) -> None:
        for pins in ({"tp": 2}, {"pp": 4}, {"dp": 2}, {"tp": 2, "pp": 2}, {"micro_batch": 2}, {"recompute": "full"}):
            best = gpt().search(8, 32, **pins).run().best
            assert best.tp * best.pp * best.dp == 8
            assert best.dp * best.micro_batch * best.micro_batches == 32
            assert {name: getattr(best, name) for name in pins} == pins

    def test_cuts_are_kept(self) -> None:
        best = gpt().search(6, 36, cuts=(3, 5)).run().best
        assert best.cuts == (3, 5)
        assert best.pp == 3

    def test_the_same_every_time(self) -> None:
        first, again = gpt().search(8, 32).run(), gpt().search(8, 32).run()
        assert degrees(first.best) == degrees(again.best)
        assert first.best.step_s == again.best.step_s
        assert [degrees(other) for other in first.others] == [degrees(other) for other in again.others]

    def test_runners_up_are_others_and_in_order(self) -> None:
        found = gpt().search(8, 32).run()
        assert 0 < len(found.others) <= 5
        assert degrees(found.best) not in {degrees(other) for other in found.others}
        assert len({degrees(other) for other in found.others}) == len(found.others)
        times = [other.estimated_s for other in found.others]
        assert times == sorted(times)

    def test_more_devices_are_not_slower(self) -> None:
        times = [gpt().search(world, 64).run().best.step_s for world in (1, 2, 4, 8)]
        assert times == sorted(times, reverse=True)


class TestWorlds:
    @pytest.mark.parametrize("world", [1, 3, 6, 7, 12])
    def test_any_world_that_the_batch_allows(self, world: int) -> None:
        best = gpt().search(world, 84).run().best
        assert best.tp * best.pp * best.dp == world
        assert 84 % (best.dp * best.micro_batch) == 0

    def test_six_devices_share_what_six_does_not_divide(self) -> None:
        """Heads and widths are powers of two: tp is 1 or 2, the rest is pp and dp."""
        best = gpt().search(6, 36).run().best
        assert best.tp in (1, 2)

    def test_tp_stays_in_a_node(self) -> None:
        found = gpt().search(16, 64).run()
        assert all(candidate.tp <= 8 for candidate in (found.best, *found.others))

    def test_a_pinned_tp_may_leave_it(self) -> None:
        assert gpt().search(16, 64, tp=16).run().best.tp == 16

    def test_no_factorisation(self) -> None:
        """11 devices: tp divides no axis, pp has too few pieces, dp does not divide the batch."""
        with pytest.raises(
            PlanningError, match=r"no tp x pp x dp makes world=11: .*global_batch=64; try world=8"
        ) as caught:
            gpt().search(11, 64).run()
        assert f"at most {len(gpt().units)}" in re.sub(r"\s+", " ", str(caught.value))

    def test_divisors(self) -> None:
        assert divisors(12) == (1, 2, 3, 4, 6, 12)
        assert divisors(7) == (1, 7)
        assert divisors_up_to(12, 5) == (1, 2, 3, 4)


class TestNothingFits:
    def test_the_message(self) -> None:
        with pytest.raises(InfeasiblePlanError) as caught:
            heavy().search(1, 8).run()
        message = str(caught.value)
        numbers = re.search(r"stage (\d+) needs ([\d.]+) GiB .*h100-sxm-80gb has ([\d.]+)", message)
        assert numbers is not None
        assert int(numbers[1]) == 0
        assert float(numbers[2]) > float(numbers[3]) == pytest.approx(79.2, abs=0.1)
        parts = dict(re.findall(r"(parameters|gradients|optimizer|activations|temporary|reserve) ([\d.]+)", message))
        assert sum(map(float, parts.values())) == pytest.approx(float(numbers[2]), abs=0.4)
        assert float(parts["parameters"]) == pytest.approx(16.0, abs=0.1)
        assert float(parts["optimizer"]) == pytest.approx(32.0, abs=0.1)

    def test_the_larger_world_that_it_names_fits(self) -> None:
        with pytest.raises(InfeasiblePlanError) as caught:
            heavy().search(1, 8).run()
        remedy = re.search(r"try world=(\d+) instead of 1 \(([\d.]+) GiB\)$", str(caught.value))
        assert remedy is not None, caught.value
        best = heavy().search(int(remedy[1]), 8).run().best
        assert best.peak_bytes <= 79.2 * GIB
        assert best.peak_bytes / GIB == pytest.approx(float(remedy[2]), abs=0.06)

    @pytest.mark.parametrize(
        "pins",
        [{"tp": 1, "pp": 1, "dp": 4}, {"pp": 1, "tp": 1}, {"dp": 4}, {"tp": 1, "dp": 4, "micro_batch": 1}],
        ids=str,
    )
    def test_every_remedy_that_it_names_works(self, pins: dict[str, int]) -> None:
        pins = {**pins, "zero": 0}  # otherwise replicas share what is too much for one
        with pytest.raises(InfeasiblePlanError) as caught:
            heavy().search(4, 8, **pins).run()
        remedies = str(caught.value).split("try ")[1].split(" or ")
        for remedy in remedies:
            changes = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", remedy)}
            assert changes and set(changes) <= {"tp", "pp", "dp", "micro_batch", "zero", "world"}
            world = changes.pop("world", 4)
            best = heavy().search(world, 8, **{**pins, **changes}).run().best
            assert best.peak_bytes <= 79.2 * GIB
            assert best.peak_bytes / GIB == pytest.approx(float(re.findall(r"([\d.]+) GiB", remedy)[0]), abs=0.06)

    def test_recomputation_is_found_where_it_alone_fits(self) -> None:
        with torch.device("meta"):
            model = tiny_gpt(hidden=4096, vocab=8192, context=4096, layers=12).bfloat16()
        whole = problem(model, token_batch(4096))
        pins: dict[str, Any] = {"tp": 1, "pp": 1, "dp": 1, "micro_batch": 16}
        with pytest.raises(InfeasiblePlanError, match=r"try recompute=None, which chooses 6 of 12 full \("):
            whole.search(1, 16, recompute="none", **pins).run()
        assert whole.search(1, 16, **pins).run().best.recompute == "6 of 12 full"

    def test_zero_is_named_where_it_fits(self) -> None:
        """Alone a device has too little; replicas that share the optimizer's state, and all else the same, have enough.

        The own runtime chooses ZeRO by itself, unless it is pinned; a stack that does not is told the least stage.
        """
        whole, pins = heavy(), {"tp": 1, "pp": 1, "dp": 4}
        for kind in ({"zero": 0}, {"stack": "megatron-2021"}):
            with pytest.raises(InfeasiblePlanError) as caught:
                whole.search(4, 8, **pins, **kind).run()
            remedy = re.search(r" zero=(\d) \(", str(caught.value))
            assert remedy is not None, caught.value
            assert whole.search(4, 8, **{**pins, **kind, "zero": int(remedy[1])}).run().best.peak_bytes <= 79.2 * GIB
            for less in range(1, int(remedy[1])) if "stack" in kind else ():
                with pytest.raises(InfeasiblePlanError):
                    whole.search(4, 8, **{**pins, **kind, "zero": less}).run()

    def test_zero_3_is_chosen_where_nothing_less_fits(self) -> None:
        pins: dict[str, Any] = {"tp": 1, "pp": 1, "dp": 4, "memory_limit_bytes": 40 * GIB}
        assert heavy().search(4, 8, **pins).run().best.keeping.zero == 3
        with pytest.raises(InfeasiblePlanError, match=r"try zero=3 \("):
            heavy().search(4, 8, zero=2, **pins).run()

    def test_cuts_are_named(self) -> None:
        with pytest.raises(InfeasiblePlanError) as caught:
            heavy().search(2, 8, cuts=(1,)).run()
        remedy = re.search(r"try cuts=\['(\d+)(\.0)?'\]", str(caught.value))
        assert remedy is not None, caught.value
        assert int(remedy[1]) in range(10, 22)


class TestPins:
    @pytest.mark.parametrize(
        ("pins", "message"),
        [
            ({"world": 0}, "world=0: it must be at least 1"),
            ({"tp": 0}, "tp=0: it must be at least 1"),
            ({"dp": -1}, "dp=-1: it must be at least 1"),
            ({"micro_batch": 0}, "micro_batch=0: it must be at least 1"),
            ({"global_batch": 0}, "global_batch=0: it must be at least 1"),
            ({"tp": 3}, "tp=3 does not divide world=8: nearest are 2 and 4"),
            ({"pp": 5}, "pp=5 does not divide world=8: nearest are 4 and 8"),
            ({"dp": 16}, "dp=16 does not divide world=8: nearest are 8"),
            ({"tp": 4, "pp": 4}, "tp=4 x pp=4 = 16 does not make world=8: leave one of them out, or set world=16"),
            ({"tp": 2, "pp": 2, "dp": 1}, "tp=2 x pp=2 x dp=1 = 4 does not make world=8: leave one of them out"),
            ({"world": 16, "pp": 16}, "pp=16 needs 16 pieces, the model has 8: at most pp=8"),
            ({"pp": 4, "cuts": (3,)}, "cuts names 1 places, which makes 2 stages, not pp=4"),
            (
                {"dp": 8, "global_batch": 12},
                "global_batch=12 cannot be shared by dp=8 replicas: nearest batches are 8 and 16",
            ),
            (
                {"micro_batch": 5},
                "global_batch=32 is not a multiple of micro_batch=5: nearest batches are 30 and 35",
            ),
            (
                {"micro_batch": 3, "dp": 2},
                "global_batch=32 is not a multiple of micro_batch=3 x dp=2 = 6: nearest batches are 30 and 36",
            ),
            ({"recompute": "some"}, "recompute='some': known are 'none', 'selective', 'full', and a share"),
        ],
    )
    def test_what_cannot_be_met(self, pins: dict[str, Any], message: str) -> None:
        settings = {"world": 8, "global_batch": 32, **pins}
        with pytest.raises(PinError, match=re.escape(message)):
            gpt().search(**settings).run()

    def test_cuts_that_do_not_divide_the_world(self) -> None:
        with pytest.raises(
            PinError, match=r"cuts .* 3 stages, and 3 does not divide world=8: name one less than 2 and 4"
        ):
            gpt().search(8, 32, cuts=(3, 5)).run()

    def test_a_tp_that_divides_nothing(self) -> None:
        with pytest.raises(PinError, match="tp=7 divides no axis along which work can be shared: nearest are 1"):
            gpt().search(7, 28, tp=7).run()
