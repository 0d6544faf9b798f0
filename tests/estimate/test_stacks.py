"""What stacks change: fused kernels, kept activations, ZeRO, context parallelism, precisions."""

from dataclasses import replace
from functools import cache

import pytest
import torch

import autopart
from autopart.estimate.block import UnitCost, unit_costs
from autopart.estimate.context import find_context
from autopart.estimate.fusion import Fusion, find_fusion
from autopart.estimate.memory import BUCKET_BYTES, Keeping, stage_memory
from autopart.estimate.node import Prices
from autopart.estimate.recompute import parse_recompute, recomputed, summary
from autopart.estimate.replicas import Replicas
from autopart.ir.placement import REPLICATED, Layout, Partial, Replicate, Shard
from autopart.prepared import Prepared
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.strategies import strategies
from cost_models.cluster import load_cluster
from cost_models.collective import Group, all_gather_s, all_reduce_s, reduce_scatter_s
from cost_models.compute import memory_bound_s
from cost_models.precision import state
from cost_models.stack import load_stack, stack_names
from tests.benchmarks.fidelity.transformer import Shape, build
from tests.estimate.keepings import keeping

HIDDEN, HEADS, SEQUENCE, LAYERS, BATCH = 1024, 16, 512, 4, 2
HALF = 2


@cache
def prepared(dropout: float = 0.1) -> Prepared:
    shape = Shape("gpt", LAYERS, HIDDEN, 4 * HIDDEN, HEADS, HEADS, 8192, SEQUENCE, dropout)
    model, batch = build(shape, torch.bfloat16)
    return autopart.prepare(model, batch)


def prices(stack: str, dropout: float = 0.1, cp: int = 1, precision: str = "as-built") -> Prices:
    ready = prepared(dropout)
    graph = ready.folded.graph
    context = find_context(graph, infer_axes(graph, ready.rules), cp)
    return Prices(graph, ready.rules, load_cluster("dgx-a100"), 1, BATCH, load_stack(stack), precision, context)


def layer(own: Prices, dropout: float = 0.1) -> UnitCost:
    """The costs of a repeated layer on one rank."""
    ready = prepared(dropout)
    axes = infer_axes(ready.folded.graph, ready.rules)
    alone = {
        node.name: strategies(node, ready.folded.graph, ready.rules[node.name], axes.parts_of, 1)[0]
        for node in ready.folded.graph.nodes
    }
    layouts = {parameter.value.name: REPLICATED for parameter in ready.folded.graph.parameters}
    costs = unit_costs(ready.folded, ready.units, own, alone, layouts)
    return next(cost for unit, cost in zip(ready.units, costs, strict=True) if unit.run == 1)


def test_activations_of_a_layer_are_those_of_the_paper() -> None:
    """Korthikanti et al. 2022, equation 1: s b h (34 + 5 a s / h) bytes a layer in half precision."""
    expected = SEQUENCE * BATCH * HIDDEN * (34 + 5 * HEADS * SEQUENCE / HIDDEN)
    assert layer(prices("megatron-2021")).kept_bytes == pytest.approx(expected, rel=0.01)


def test_selective_recomputation_keeps_no_scores() -> None:
    """The same, section 5: 34 s b h are left, and the attention is computed again."""
    own = layer(prices("megatron-2022"))
    assert own.selective_bytes == pytest.approx(34 * SEQUENCE * BATCH * HIDDEN, rel=0.01)
    assert 0 < own.selective_s < 0.5 * own.forward_s
    flash = layer(prices("megatron-core"))
    assert flash.selective_s == 0
    assert flash.selective_bytes <= flash.kept_bytes < own.kept_bytes


def fusion(kind: str, fused_loss: bool = False) -> Fusion:
    own = prices("autopart")
    return find_fusion(own.graph, kind, fused_loss, own.bytes_of)


def test_a_fused_loss_takes_logits_as_they_are() -> None:
    """Its one kernel begins with the cast and keeps half the bytes; alone, the loss is a kernel and keeps float32."""
    own = prices("autopart")
    loss = next(node for node in own.graph.nodes if "cross_entropy" in node.op)
    kept = {}
    for fused in (False, True):
        found = fusion("none", fused)
        assert (loss.name in found.launches) is not fused
        inside = [node for node in own.graph.nodes if node.name not in fusion("none", True).launches] + [loss]
        names = [node.inputs[slot] for node in inside for slot in found.kept_inputs.get(node.name, ())]
        first = [node for node in own.graph.nodes if node.op.split(".")[1] in ("to", "_to_copy", "type_as")]
        names += [node.inputs[slot] for node in first for slot in found.kept_inputs.get(node.name, ())]
        kept[fused] = sum(own.bytes_of[name] for name in dict.fromkeys(names) if own.graph.values[name].requires_grad)
    assert kept[False] == 2 * kept[True] > 0


def test_zero_makes_flat_copies_where_a_stack_does() -> None:
    """DeepSpeed's ZeRO-1 step: gradients flat in half and float32, 6 bytes an element; norms in float64, 8."""
    stack, cluster = load_stack("megatron-deepspeed-2022"), load_cluster("dgx-a100")
    own = state("fp16-mixed", "float16", "adamw", stack)
    flat = {zero: Keeping(own, HALF, zero, 4, cluster.device, stack) for zero in (0, 1)}
    assert flat[1].flat_bytes(HALF * 1000.0, HALF * 100.0) == 6 * 1000 / 4 + 8 * 100
    assert flat[0].flat_bytes(HALF * 1000.0, HALF * 100.0) == 8 * 100
    unit = layer(prices("megatron-deepspeed-2022"))
    memory = stage_memory([unit], 1, flat[1], 0.0)
    room = cluster.device.memory_bytes - memory.total_bytes + memory.reserve_bytes - cluster.device.context_bytes
    assert 0 < memory.cached_bytes <= room, "cached memory is given back before the device is full"


def test_what_later_units_kept_is_free_by_then() -> None:
    """While the first of two units runs backward, only what it and those before it kept is there."""
    device, stack = load_cluster("dgx-a100").device, load_stack("megatron-2021")
    own = state("fp16-mixed", "float16", "adamw", stack)
    keeping = Keeping(own, HALF, 0, 1, device, stack)
    unit = replace(layer(prices("megatron-2021")), parameters=())
    few = replace(unit, kept_bytes=10.0 * 2**30, transient_bytes=8.0 * 2**30)
    many = replace(unit, kept_bytes=30.0 * 2**30, transient_bytes=1.0 * 2**30)

    def peak(*units: UnitCost) -> int:
        memory = stage_memory(units, 1, keeping, 0.0)
        return memory.activations_bytes + memory.temporary_bytes

    assert peak(few, many) == 41 * 2**30
    assert peak(many, few) == 48 * 2**30


def test_kernels_of_each_kind_of_fusion() -> None:
    """A stack that fuses more launches less and moves less; one that fuses nothing has a kernel a node."""
    graph = prepared().folded.graph
    none, chains, compiled = (fusion(kind) for kind in ("none", "chains", "compiled"))
    assert none.launches == {node.name for node in graph.nodes}
    assert len(compiled.launches) < len(chains.launches) < len(none.launches)
    names = {node.name: node.op.split(".")[1] for node in graph.nodes}
    adds = [name for name, op in names.items() if op == "add"]
    norms = [name for name, op in names.items() if op == "layer_norm"]
    assert all(name in chains.launches for name in norms), "a norm is no chain of elementwise ops"
    assert any(name not in compiled.launches for name in norms), "a norm joins the residual sum before it"
    assert any(name not in chains.launches for name in adds), "a residual sum joins the dropout before it"


def test_a_kernel_never_waits_for_itself() -> None:
    """No path leads out of a kernel and back into it."""
    graph = prepared().folded.graph
    for kind in ("chains", "compiled"):
        own = fusion(kind)
        kernel: dict[str, int] = {}
        for node in graph.nodes:
            made = [graph.nodes[graph.producer[name]].name for name in node.inputs if name in graph.producer]
            before = [kernel[name] for name in made]
            kernel[node.name] = max(before, default=0) + (node.name in own.launches)
        assert max(kernel.values()) <= len(own.launches)


def test_what_is_fused_costs_less() -> None:
    none, compiled = (
        layer(replace(prices("torchtitan"), stack=replace(load_stack("torchtitan"), fusion=kind)))
        for kind in ("none", "compiled")
    )
    assert compiled.forward_s + compiled.backward_s < none.forward_s + none.backward_s
    assert compiled.kept_bytes < 0.8 * none.kept_bytes


def test_context_parallelism_shares_the_work() -> None:
    """Two ranks: half the products each, and the same operations in all."""
    whole, half = (layer(prices("torchtitan", 0.0, cp), 0.0) for cp in (1, 2))
    assert half.model_flops == pytest.approx(whole.model_flops)
    assert 0.4 * whole.forward_s < half.forward_s < 0.75 * whole.forward_s
    assert half.kept_bytes == pytest.approx(whole.kept_bytes / 2, rel=0.01)


def test_float8_multiplies_faster_and_casts() -> None:
    h100 = load_cluster("dgx-h100")
    ready = prepared(0.0)
    seconds = {}
    for precision in ("bf16-mixed", "fp8-mixed"):
        own = Prices(ready.folded.graph, ready.rules, h100, 1, 32, load_stack("nemo-megatron-core"), precision)
        seconds[precision] = layer(own, 0.0)
    assert seconds["fp8-mixed"].forward_s < seconds["bf16-mixed"].forward_s
    assert seconds["fp8-mixed"].kept_bytes < seconds["bf16-mixed"].kept_bytes


def test_a_factor_is_kept_only_for_gradients_of_the_others() -> None:
    """As `torch.autograd.graph.saved_tensors_hooks` sees it: rotary tables and frozen weights keep no other factor."""

    class Rotated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = torch.nn.Linear(8, 8, bias=False).requires_grad_(False)
            self.trained = torch.nn.Linear(8, 8, bias=False)
            self.register_buffer("table", torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.trained(x) * self.table
            return (self.frozen(y) * y).sum()

    model, x = Rotated(), torch.ones(4, 8)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        model(x)
    weights = {model.frozen.weight.data_ptr(), model.trained.weight.data_ptr(), model.table.data_ptr()}
    elements = sum(t.numel() for t in {t.data_ptr(): t for t in saved if t.data_ptr() not in weights}.values())

    graph = autopart.prepare(model, {"x": x}).folded.graph
    found = find_fusion(graph, "none", False, dict.fromkeys(graph.values, 1))
    kept = {node.inputs[slot] for node in graph.nodes for slot in found.kept_inputs.get(node.name, ())}
    assert elements == 3 * x.numel()
    assert len(kept - set(graph.weights)) == 3, "the input, and the two factors of the last product"


def test_what_is_gathered_again_is_kept_in_shares_in_float8_too() -> None:
    """With sequence parallelism no product of a layer keeps what it takes whole, Korthikanti et al. 2022, 4.2.2."""
    request = {"stack": "nemo-megatron-core", "precision": "fp8-mixed", "global_batch": 2, "micro_batch": 2}
    alone, shared = (
        autopart.plan(prepared(0.0), cluster="dgx-h100", world=tp, tp=tp, pp=1, dp=1, zero=1, **own, **request)
        for tp, own in ((1, {}), (8, {"sequence_parallel": True}))
    )
    sizes = [plan.stages[0].memory.activations_bytes for plan in (alone, shared)]
    assert sizes[1] < 1.05 * sizes[0] / 8


def test_layers_gather_in_float8_what_its_products_take() -> None:
    """Half the bytes of gathering inside of repeated layers; all of scattered sums, and outside of layers."""
    ready, sent = prepared(0.0), {}
    for precision in ("bf16-mixed", "fp8-mixed"):
        graph = ready.folded.graph
        own = Prices(graph, ready.rules, load_cluster("dgx-h100"), 4, BATCH, load_stack("megatron-core"), precision)
        inside = next(node.output.name for node in graph.nodes if node.name in own.repeated and "linear" in node.op)
        outside = next(node.output.name for node in graph.nodes if "embedding" in node.op)
        sharded, whole = Layout(Shard(1), Shard(1)), Layout(Replicate(), Partial())
        for name in (inside, outside):
            sizes = dict(own.sent_bytes(name, sharded, whole))
            sent[precision, name == inside] = sizes["all_gather"], own.conversion(name, sharded, whole).forward_s
            assert sizes["reduce_scatter"] == own.bytes_of[name] * 3 / 4
    assert sent["fp8-mixed", True][0] == sent["bf16-mixed", True][0] / 2
    assert sent["fp8-mixed", True][1] < sent["bf16-mixed", True][1]
    assert sent["fp8-mixed", False] == sent["bf16-mixed", False]


@pytest.mark.parametrize("stack", stack_names())
def test_state_of_a_mixed_precision(stack: str) -> None:
    """ZeRO (Rajbhandari et al. 2020, section 3.1): 16 bytes a parameter, 18 with float32 gradients, 20 with both."""
    own = state("bf16-mixed", "bfloat16", "adamw", load_stack(stack))
    total = own.weight_bytes + own.gradient_bytes + own.optimizer_bytes
    assert total in (16, 18, 20)
    plain = state("as-built", "bfloat16", "adamw", load_stack(stack))
    assert (plain.weight_bytes, plain.gradient_bytes, plain.optimizer_bytes) == (2, 2, 4)


def test_zero_shares_state() -> None:
    """Stage 1 the optimizer's, 2 gradients too, 3 parameters too, whose half copy is made of the float32 shard."""
    stack, device = load_stack("megatron-core"), load_cluster("dgx-a100").device
    own = state("bf16-mixed", "bfloat16", "adamw", stack)
    unit = layer(prices("megatron-core"))
    held = sum(size for _, size, _ in unit.parameters)
    memories = []
    for zero in range(4):
        keeping = Keeping(own, HALF, zero, 8, device, stack)
        memories.append(stage_memory([unit], 1, keeping, 0.0))
    shares = [(m.parameters_bytes, m.gradients_bytes, m.optimizer_bytes) for m in memories]
    whole = (held, 2 * held, 6 * held)
    for zero, (parameters, gradients, optimizer) in enumerate(shares):
        assert optimizer == int(whole[2] / (8 if zero >= 1 else 1))
        assert gradients == int(whole[1] / (8 if zero >= 2 else 1))
        assert parameters == (0 if zero >= 3 else int(whole[0]))


def test_zero_3_of_the_own_runtime_gathers_layer_by_layer_and_all_else_for_a_pass() -> None:
    """FSDP, as others apply it, gathers what stands outside of layers by itself too, and reduces whole units."""
    held, outside = 1e9, 3e9
    unit = replace(layer(prices("autopart")), kept_bytes=0.0, transient_bytes=0.0, parameters=(("w", held, 1),))
    embedding = replace(unit, input_bytes=0.0, parameters=(("e", outside, 1),))
    head = replace(embedding, parameters=(("e", outside, 1), ("h", outside, 1)))
    units = [embedding, *(replace(unit, parameters=((f"w{i}", held, 1),)) for i in range(3)), head]
    memory = stage_memory(units, 1, keeping(zero=3, replicas=8), 0.0)
    assert memory.temporary_bytes == 2 * outside + 2 * held + BUCKET_BYTES
    assert memory.parameters_bytes == int((2 * outside + 3 * held) / 8)
    other = replace(keeping(zero=3, replicas=8), stack=load_stack("torchtitan"))
    reduced = other.state.reduced_bytes / other.element_bytes
    assert stage_memory(units, 1, other, 0.0).temporary_bytes == 2 * outside * (2 + reduced)


def test_sharing_within_a_node_gathers_faster_and_sums_among_nodes() -> None:
    """HYBRID_SHARD: gathers stay in a node; gradients are summed there, and each share of them among the 4 nodes."""
    ready, cluster = prepared(), load_cluster("a100-400g")
    request = {"world": 32, "tp": 1, "pp": 1, "dp": 32, "zero": 3, "global_batch": 64, "micro_batch": 2}
    plain, hybrid = (
        autopart.plan(ready, cluster=cluster, stack=stack, precision="bf16-mixed", **request)
        for stack in ("fms-fsdp", "fms-fsdp-hybrid")
    )
    assert hybrid.predicted.step_time_s < plain.predicted.step_time_s
    ours, theirs = (plan.stages[0].memory for plan in (hybrid, plain))
    assert ours.optimizer_bytes == pytest.approx(4 * theirs.optimizer_bytes, rel=1e-6)

    own = state("bf16-mixed", "bfloat16", "adamw", load_stack("fms-fsdp-hybrid"))
    keeping = Keeping(own, HALF, 3, 8, cluster.device, load_stack("fms-fsdp-hybrid"))
    held = 1e9
    unit = replace(layer(prices("fms-fsdp-hybrid")), parameters=(("w", held, int(held // HALF)),))
    slow = Replicas(Group(32), cluster, keeping).paced([unit], 0.0, 0.0)
    assert slow[0] >= all_gather_s(held, Group(8), cluster)
    summed_s = reduce_scatter_s(held, Group(8), cluster) + all_reduce_s(held / 8, Group(4, 8), cluster)
    assert slow[1] >= summed_s > all_gather_s(held, Group(8), cluster)


def test_gathering_in_lists_costs_a_kernel_a_rank_and_hides_nothing() -> None:
    """Once in the forward pass, and in the backward pass again, with the gradients; small parameters are whole."""
    stack, cluster, ranks, held = load_stack("deepspeed-zero3-2021"), load_cluster("dgx-a100"), 64, 1e9
    keeping = Keeping(
        state("fp16-mixed", "float16", "adamw", stack), HALF, 3, ranks, cluster.device, replace(stack, dispatch_s=0.0)
    )
    parameters = (("w", held, int(held // HALF)), ("b", 1e4, 5000))
    unit = replace(layer(prices(stack.name)), parameters=parameters)
    forward_s, backward_s = Replicas(Group(ranks), cluster, keeping).paced([unit, unit], 1.0, 2.0)
    pieces_s = ranks * cluster.device.kernel_launch_s + memory_bound_s(2 * held, cluster.device)
    gathered_s = all_gather_s(held, Group(ranks), cluster) + pieces_s
    scattered_s = reduce_scatter_s(held, Group(ranks), cluster) + pieces_s
    assert forward_s == pytest.approx(1.0 + 2 * gathered_s)
    assert backward_s == pytest.approx(2.0 + 2 * (gathered_s + scattered_s))
    # Computed again, a unit is gathered for that and then once more for its gradients.
    again = replace(unit, again_s=1.0)
    assert Replicas(Group(ranks), cluster, keeping).paced([again, again], 1.0, 2.0) == (
        pytest.approx(forward_s),
        pytest.approx(backward_s + 2 * gathered_s),
    )


def test_waiting_for_kernels_adds_the_launches() -> None:
    """CUDA_LAUNCH_BLOCKING=1: every op of a layer waits for the host, in both passes."""
    blocking = load_stack("megatron-deepspeed-2022-blocking")
    waiting, free = layer(prices(blocking.name)), layer(prices("megatron-deepspeed-2022"))
    ops = round((waiting.forward_s - free.forward_s) / blocking.dispatch_s)
    assert 8 <= ops <= 40
    assert waiting.forward_s == pytest.approx(free.forward_s + ops * blocking.dispatch_s)
    assert waiting.backward_s == pytest.approx(free.backward_s + ops * blocking.dispatch_s)


def test_a_loss_in_steps_goes_over_its_logits_more_often() -> None:
    for stack, forward, backward in (("torchtitan", 2, 4), ("torchtitan-2025", 0, 0)):
        own = prices(stack)
        loss = next(node for node in own.graph.nodes if "cross_entropy" in node.op)
        alone = strategies(loss, own.graph, own.rules[loss.name], {}, 1)[0]
        cost, device = own.node(loss, alone), own.cluster.device
        size = own.bytes_of[loss.inputs[0]]
        if forward:
            assert cost.forward_s == pytest.approx(memory_bound_s(forward * size, device), rel=1e-3)
            assert cost.backward_s == pytest.approx(memory_bound_s(backward * size, device), rel=1e-3)
        else:
            assert cost.total_s < memory_bound_s(4 * size, device)


def test_recomputing_a_share() -> None:
    """Of layers each second, of two thirds of six the second, third, fifth and sixth; what is no layer never."""
    unit = layer(prices("megatron-2021"))
    head = replace(unit, input_bytes=0.0)
    costs = [head, *[unit] * 6, head]
    chosen = {text: parse_recompute(text).kinds(costs) for text in ("none", "full", "full:1/2", "selective:2/3")}
    assert chosen["none"] == ("none",) * 8
    assert chosen["full"] == ("none", *["full"] * 6, "none")
    assert chosen["full:1/2"] == ("none", *["none", "full"] * 3, "none")
    assert chosen["selective:2/3"] == ("none", *["none", "selective", "selective"] * 2, "none")
    full, none = recomputed(unit, "full"), recomputed(unit, "none")
    assert none is unit and unit.again_s == unit.working_bytes == 0
    assert (full.kept_bytes, full.working_bytes, full.again_s) == (unit.input_bytes, unit.kept_bytes, unit.forward_s)
    assert recomputed(head, "full") is head
    assert summary(costs, chosen["full"]) == "full" and summary(costs, chosen["none"]) == "none"
    assert summary(costs, chosen["full:1/2"]) == "3 of 6 full"
