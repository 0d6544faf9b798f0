"""What must come out: the layouts that Megatron-LM codes by hand, found from the graphs alone.

Widths are those of published models, layers are few, weights are on `meta`; tp is 8 on one node of eight.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from autopart.errors import InfeasiblePlanError, PinError
from autopart.estimate.node import Prices
from autopart.ir.folded import ENTER
from autopart.ir.graph import Node
from autopart.ir.placement import PARTIAL_VALUE, Layout, Shard
from autopart.ir.plan import LayerTraffic, PlanData
from autopart.report.table import table
from autopart.search.solve import solve
from autopart.sharding.batch import batch_sharding
from autopart.sharding.strategies import Strategy
from tests.search.problems import Problem, problem

TP = 8
LAYERS = 2


@dataclass(frozen=True)
class Model:
    """How to build a model, and the names of its projections: those split by their outputs, and by their inputs.

    `parts` are those in which the first of `columns` is cut, a fused one that is. `reductions` are the all-reduces (or
    their halves) each way in what repeats: 2 a layer, 1 where attention and MLP are added before they are reduced.
    """

    build: Callable[[], nn.Module]
    sequence: int
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    parts: tuple[int, ...] = (1,)
    reductions: int = 2
    tied: bool = False


def hugging_face(name: str, head: str = "ForCausalLM", layers: str = "num_hidden_layers", **sizes: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        **{layers: LAYERS, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, **sizes}
    )
    config.loss_type = "ForCausalLM"
    return getattr(transformers, f"{name}{head}")(config)


def llama(
    hidden: int, ffn: int, heads: int, kv_heads: int, name: str = "Llama", **sizes: Any
) -> Callable[[], nn.Module]:
    return lambda: hugging_face(
        name, vocab_size=128256, hidden_size=hidden, intermediate_size=ffn, num_attention_heads=heads,
        num_key_value_heads=kv_heads, **sizes,
    )  # fmt: skip


def gpt2(hidden: int, heads: int, context: int) -> Callable[[], nn.Module]:
    return lambda: hugging_face(
        "GPT2", "LMHeadModel", "n_layer", vocab_size=51200, n_positions=context, n_embd=hidden, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


def example_gpt() -> nn.Module:
    from gpt import GPT, GPTConfig

    return GPT(GPTConfig(vocab_size=51200, context=2048, layers=LAYERS, hidden=8192, heads=64))


GATED = (("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj"))
GPT2 = (("c_attn", "c_fc"), ("attn.c_proj", "mlp.c_proj"))

MODELS = {
    "llama 8b": Model(llama(4096, 14336, 32, 8), 8192, *GATED),
    "llama 70b": Model(llama(8192, 28672, 64, 8), 4096, *GATED),
    "qwen 3 32b": Model(llama(5120, 25600, 64, 8, "Qwen3", head_dim=128), 4096, *GATED),
    "gemma 2 27b": Model(  # two kinds of attention by turns: what repeats is two layers
        llama(4608, 36864, 32, 16, "Gemma2", head_dim=128, num_hidden_layers=2 * LAYERS), 4096, *GATED,
        reductions=4, tied=True,
    ),
    "gpt-2 2.5b": Model(gpt2(1920, 24, 1024), 1024, *GPT2, parts=(1, 1, 1), tied=True),
    "gpt-3 22b": Model(gpt2(6144, 64, 2048), 2048, *GPT2, parts=(1, 1, 1), tied=True),
    "gpt-3 175b": Model(gpt2(12288, 96, 2048), 2048, *GPT2, parts=(1, 1, 1), tied=True),
    "gpt-neox 20b": Model(
        lambda: hugging_face("GPTNeoX"), 2048, ("query_key_value", "dense_h_to_4h"),
        ("attention.dense", "dense_4h_to_h"), reductions=1,
    ),
    "phi 3 mini": Model(
        lambda: hugging_face("Phi3"), 4096, ("qkv_proj", "gate_up_proj"), ("o_proj", "down_proj"), parts=(1, 1, 1)
    ),
    "phi with grouped queries": Model(
        lambda: hugging_face("Phi3", hidden_size=4096, intermediate_size=14336, num_key_value_heads=8), 4096,
        ("qkv_proj", "gate_up_proj"), ("o_proj", "down_proj"), parts=(4, 1, 1),
    ),
    "gpt of the examples": Model(
        example_gpt, 2048, ("attention.qkv", "mlp.up"), ("attention.proj", "mlp.down"), parts=(1, 1, 1), tied=True
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A plan beside the graph it is of."""

    whole: Problem
    plan: PlanData

    @property
    def traffic(self) -> LayerTraffic:
        """Of the one repeated layer."""
        (traffic,) = self.plan.traffic
        return traffic

    @property
    def carried_bytes(self) -> int:
        """The bytes of what goes from layer to layer: micro-batch x sequence x hidden elements."""
        (enter,) = (node for node in self.whole.folded.graph.nodes if node.op == ENTER)
        prices: Prices = self.whole.prices(TP, self.plan.micro_batch)
        return prices.bytes_of[enter.output.name]

    @property
    def carried(self) -> Layout:
        (enter,) = (choice for choice in self.plan.nodes if choice.node.startswith("enter_"))
        return enter.outputs[0]

    def nodes(self, *ops: str) -> Iterator[tuple[Node, Strategy]]:
        """The nodes of these ops, with what was chosen."""
        chosen = {choice.node: choice for choice in self.plan.nodes}
        for node in self.whole.folded.graph.nodes:
            if node.op.split(".")[1] in ops:
                own = chosen[node.name]
                yield node, Strategy(own.letter, own.inputs, own.outputs, call=own.call)

    def projection(self, name: str) -> tuple[Strategy, Shard | None, int]:
        """The one projection called `name`: what was chosen, how its weight is sharded, and the dim of its outputs."""
        layouts = {choice.name: choice.layout for choice in self.plan.parameters}
        for node, own in self.nodes("linear", "addmm", "mm"):
            for value in node.inputs:
                parameter = self.whole.folded.graph.parameter_of.get(value)
                if parameter is not None and parameter.target.endswith(f"{name}.weight"):
                    return own, layouts[value].shard, 0 if node.op == "aten.linear.default" else 1
        raise LookupError(name)


@cache
def captured(name: str) -> Problem:
    model = MODELS[name]
    with torch.device("meta"):
        built = model.build().to(torch.bfloat16)
    tokens = torch.empty(2, model.sequence, dtype=torch.long, device="meta")
    labels = torch.empty_like(tokens)
    return problem(
        built, (tokens, labels) if name == "gpt of the examples" else {"input_ids": tokens, "labels": labels}
    )


@cache
def found(name: str, micro_batch: int = 1, cluster: str = "dgx-h100", **pins: Any) -> Found:
    return planned(captured(name), micro_batch=micro_batch, cluster=cluster, **pins)


def planned(
    whole: Problem, cluster: str = "dgx-h100", global_batch: int = 64, memory_bytes: int | None = None, **pins: Any
) -> Found:
    request = whole.search(TP, global_batch, cluster, **{"tp": TP, **pins}).request
    if memory_bytes is not None:
        device = replace(request.cluster.device, memory_bytes=memory_bytes)
        request = replace(request, cluster=replace(request.cluster, device=device))
    batch = batch_sharding(whole.folded.graph, whole.rules)
    return Found(whole, solve(whole.folded, whole.units, whole.rules, batch, request))


@pytest.mark.parametrize("name", MODELS)
class TestEveryModel:
    def test_projections_are_split_by_columns_and_then_by_rows(self, name: str) -> None:
        for column in MODELS[name].columns:
            own, weight, output_dim = found(name).projection(column)
            assert weight is not None and weight.dim == output_dim, f"{column} is not split by its outputs"
            assert own.outputs[0].shard is not None
            assert str(own.inputs[0 if output_dim == 0 else 1]) == "R|P"
        for row in MODELS[name].rows:
            own, weight, output_dim = found(name).projection(row)
            assert weight == Shard(1 - output_dim), f"{row} is not split by its inputs"
            assert own.outputs[0] == PARTIAL_VALUE

    def test_a_fused_projection_is_split_in_each_of_its_parts(self, name: str) -> None:
        _, weight, output_dim = found(name).projection(MODELS[name].columns[0])
        assert weight == Shard(output_dim, MODELS[name].parts)

    def test_attention_is_split_by_heads(self, name: str) -> None:
        attentions = list(found(name).nodes("scaled_dot_product_attention", "softmax"))  # fused, or spelled out
        assert attentions
        for _, own in attentions:
            assert {layout.shard for layout in (*own.inputs[:3], *own.outputs)} == {Shard(1)}

    def test_head_and_loss_are_split_by_the_vocabulary(self, name: str) -> None:
        ((_, loss),) = found(name).nodes("cross_entropy_loss")
        assert loss.call == "cross_entropy"
        assert loss.inputs[0].shard == Shard(1)
        assert dict(found(name).plan.axes)["vocab"]

    def test_the_embedding_is_split(self, name: str) -> None:
        """By the vocabulary where the head has the same weight; by hidden, for an eighth of the bytes, where it may."""
        whole = found(name).whole
        for node, own in found(name).nodes("embedding"):
            target = whole.folded.graph.parameter_of[node.inputs[0]].target
            if "wpe" in target or "position" in target:
                continue
            if MODELS[name].tied:
                assert (own.inputs[0].shard, own.outputs[0], own.call) == (Shard(0), PARTIAL_VALUE, "embedding")
            else:
                assert own.inputs[0].shard == Shard(1)

    @pytest.mark.parametrize("cluster", ["dgx-h100", "dgx-a100"])
    @pytest.mark.parametrize("micro_batch", [1, 2])
    def test_a_layer_sends_what_megatron_sends(self, name: str, micro_batch: int, cluster: str) -> None:
        """Two all-reduces of micro-batch x sequence x hidden each way, or their halves: each 2 (p-1)/p in a ring."""
        own = found(name, micro_batch, cluster)
        expected = MODELS[name].reductions * 2 * (TP - 1) * own.carried_bytes // TP
        assert own.traffic.forward_bytes == expected
        assert own.traffic.backward_bytes == expected
        kinds = {kind for kind, _, _ in (*own.traffic.forward, *own.traffic.backward)}
        assert kinds <= {"all_reduce", "all_gather", "reduce_scatter"}


class TestGroupedQueries:
    def test_fewer_key_and_value_heads_than_ranks(self) -> None:
        """Four for eight ranks: a rank has its share of the queries of every group, and keys and values come whole."""
        with torch.device("meta"):
            model = llama(8192, 28672, 64, 4)().to(torch.bfloat16)
        tokens = torch.empty(2, 4096, dtype=torch.long, device="meta")
        own = planned(problem(model, {"input_ids": tokens, "labels": torch.empty_like(tokens)}), micro_batch=1)
        for _, attention in own.nodes("scaled_dot_product_attention"):
            assert {x.shard.dim for x in attention.inputs[:3] if x.shard is not None} == {1}
        megatron = 4 * (TP - 1) * own.carried_bytes // TP
        # Keys and values are a sixteenth of hidden each; to share their work takes a few collectives of that size.
        assert megatron <= own.traffic.forward_bytes < 1.1 * megatron
        assert megatron <= own.traffic.backward_bytes < 1.1 * megatron


class TestSequenceParallel:
    """A hidden size that ranks share, and micro-batches whose activations are most of the memory."""

    name = "gpt of the examples"

    def test_it_is_chosen_when_memory_is_short(self) -> None:
        """With room to spare all-reduces are fastest here, and layers keep whole tensors; else they keep shards."""
        pins = {"tp": TP, "micro_batch": 32, "recompute": "none"}
        ample = planned(captured(self.name), **pins)
        assert ample.traffic.between == ()
        assert {kind for kind, _, _ in ample.traffic.forward} == {"all_reduce"}
        (stage,) = ample.plan.stages
        smaller = stage.memory.total_bytes - 4 * 2**30
        short = planned(captured(self.name), memory_bytes=smaller, **pins)
        assert short.traffic.between == ("sequence",)
        assert {kind for kind, _, _ in short.traffic.forward} == {"all_gather", "reduce_scatter"}
        assert "; sequence (2048) between blocks" in table(short.plan)
        assert short.traffic.forward_bytes == ample.traffic.forward_bytes
        assert short.plan.stages[0].memory.total_bytes <= smaller
        with pytest.raises(InfeasiblePlanError):
            planned(captured(self.name), memory_bytes=smaller, sequence_parallel=False, **pins)

    def test_pinned(self) -> None:
        for micro_batch in (1, 32):
            with_it = found(self.name, micro_batch, sequence_parallel=True)
            without = found(self.name, micro_batch, sequence_parallel=False)
            assert with_it.carried.shard == Shard(1)
            assert with_it.traffic.between == ("sequence",)
            assert "sequence" not in dict(without.plan.axes)
            assert without.carried.shard is None or without.carried.shard.dim != 1
            assert max(m.total_bytes for m in (s.memory for s in with_it.plan.stages)) < max(
                m.total_bytes for m in (s.memory for s in without.plan.stages)
            )

    def test_a_sequence_that_tp_does_not_divide(self) -> None:
        tokens = torch.empty(2, 1023, dtype=torch.long, device="meta")
        from gpt import GPT, GPTConfig

        with torch.device("meta"):
            model = GPT(GPTConfig(vocab_size=1024, context=1023, layers=LAYERS, hidden=512, heads=8))
        whole = problem(model, (tokens, torch.empty_like(tokens)))
        with pytest.raises(PinError, match=r"sequence_parallel=True: with tp=8 nothing .* 1023 long"):
            planned(whole, sequence_parallel=True)
        assert planned(whole, sequence_parallel=False).traffic.between == ()
