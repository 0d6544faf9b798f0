"""Prices: seconds and bytes of every node, strategy and conversion of a graph, at one batch size and tp degree."""

from dataclasses import dataclass
from functools import cached_property

from autopart.estimate.conversions import Cost
from autopart.estimate.fusion import LOSSES, Fusion, find_fusion
from autopart.estimate.products import FLOAT8, Products
from autopart.estimate.work import Work, short_name, work_of
from autopart.ir.graph import Node
from autopart.ir.placement import Layout, Shard
from autopart.sharding.strategies import Strategy
from cost_models.collective import Group, all_reduce_s
from cost_models.compute import memory_bound_s
from cost_models.dtype import dtype_bytes
from cost_models.precision import computed_dtype, state

_CUTTING = ("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "narrow")
# How often an unfused loss reads or writes its logits, forward and backward. torch's: logarithms of a softmax, then
# picking from them. Vocabulary-parallel (Megatron-LM's cross_entropy.py): maximum, difference, exponentials, their sum
# and quotient.
_LOSS_PASSES = {"whole": (2.0, 4.0), "sharded": (8.0, 2.0)}


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that stay until the backward pass: of a value, or of `scores` that attention could compute again.

    `copied` is the value that a copy in another dtype is of; empty for a value itself.
    """

    name: str
    sharded: bool
    bytes: float
    scores: bool = False
    copied: str = ""


@dataclass(frozen=True)
class Prices(Products):
    """Prices of `graph` on `cluster` with `batch` samples a micro-batch and `tp` ranks sharing every node.

    The fields are those of `Products`.
    """

    @cached_property
    def fusion(self) -> Fusion:
        """Which values the stack's kernels read, write and keep."""
        return find_fusion(self.graph, self.stack.fusion, self.stack.fused_loss, self.bytes_of)

    def node(self, node: Node, strategy: Strategy) -> Cost:
        """Seconds of one node on one rank, without conversions and without the sums of its inputs' gradients."""
        key = self.sorts.of(node, strategy)
        if key not in self._costs:
            cost = self._kernels(node, strategy)
            self._costs[key] = cost + self._reductions(node) if strategy.call == "cross_entropy" else cost
        return self._costs[key]

    @cached_property
    def _transient(self) -> dict[int, float]:
        return {}

    @cached_property
    def _costs(self) -> dict[int, Cost]:
        return {}

    @cached_property
    def _kept(self) -> dict[int, tuple[Kept, ...]]:
        return {}

    def gradient_sum_s(self, name: str, layout: Layout) -> float:
        """Seconds in which autograd adds one more gradient of a value in `layout`: two are read, one is written.

        A compiling stack adds inside the kernels that make the gradients. A stack that adds weights' gradients in the
        product still reads and writes the sum there.
        """
        if not self.graph.values[name].requires_grad:
            return 0.0
        size = self.local_bytes(name, layout)
        if name in self.graph.parameter_of:
            element = dtype_bytes(self.dtype(name))
            total = element if self.precision == "as-built" else self.stack.gradient_bytes
            alone = 0 if self.stack.sums_in_products else element
            return memory_bound_s(size / element * (2 * total + alone), self.cluster.device)
        return 0.0 if self.stack.fusion == "compiled" else memory_bound_s(3 * size, self.cluster.device)

    def partial_gradient_s(self, name: str) -> float:
        """Seconds to sum a parameter's partial gradient over the tp ranks, once a step."""
        return all_reduce_s(self.bytes_of[name], Group(self.tp, 1), self.cluster)

    def optimizer_s(self, parameter_bytes: float) -> float:
        """Seconds of the optimizer's step over `parameter_bytes` of parameters, once a step."""
        moved = parameter_bytes / dtype_bytes(computed_dtype(self.precision, self.main_dtype)) * self._step_bytes
        return moved / (self.cluster.device.memory_bandwidth_bytes_per_s * self.cluster.device.bandwidth_fraction)

    @cached_property
    def _step_bytes(self) -> float:
        return state(self.precision, self.main_dtype, "adamw", self.stack).step_bytes

    def kept(self, node: Node, strategy: Strategy) -> tuple[Kept, ...]:
        """What autograd keeps of a node until its backward pass."""
        key = self.sorts.of(node, strategy)
        if key not in self._kept:
            self._kept[key] = self._kept_of(node, strategy)
        return self._kept[key]

    def _kept_of(self, node: Node, strategy: Strategy) -> tuple[Kept, ...]:
        if not any(value.requires_grad for value in node.outputs):
            return ()
        fusion, found = self.fusion, []
        pairs = [
            *((node.inputs[slot], strategy.inputs[slot]) for slot in fusion.kept_inputs.get(node.name, ())),
            *((node.outputs[slot].name, strategy.outputs[slot]) for slot in fusion.kept_outputs.get(node.name, ())),
        ]
        for name, layout in pairs:
            if name not in self.graph.weights:
                sharded, size = isinstance(layout.value, Shard), self.local_bytes(name, layout)
                copy = work_of(node) is Work.MATMUL and self.product_dtype(node) == FLOAT8
                # What a float8 product takes is kept as it takes it.
                found.append(
                    Kept(f"{name} in {FLOAT8}", sharded, size / 2, copied=name) if copy else Kept(name, sharded, size)
                )
        mask = self._mask_bytes(node, strategy)
        if mask:
            found.append(Kept(f"{node.name}'s mask", isinstance(strategy.outputs[0].value, Shard), mask))
        if work_of(node) is Work.ATTENTION:
            found.append(Kept(f"{node.name}'s scores", False, self.attention(node, strategy).kept_bytes, True))
        return tuple(found)

    def kept_input(self, node: Node, strategy: Strategy, slot: int) -> Kept:
        """An input of a node as it is kept where the node is computed again from it."""
        name, layout = node.inputs[slot], strategy.inputs[slot]
        return Kept(name, isinstance(layout.value, Shard), self.local_bytes(name, layout))

    def kept_bytes(self, node: Node, strategy: Strategy) -> float:
        """The bytes of these; a value that other nodes keep too counts for each."""
        return sum(kept.bytes for kept in self.kept(node, strategy))

    def transient_bytes(self, node: Node, strategy: Strategy) -> float:
        """Bytes that exist only while the node runs backward: the gradients of what its kernel wrote and read."""
        key = self.sorts.of(node, strategy)
        if key not in self._transient:
            self._transient[key] = self._transient_of(node, strategy)
        return self._transient[key]

    def _transient_of(self, node: Node, strategy: Strategy) -> float:
        if work_of(node) is Work.VIEW:
            return 0.0
        pairs = list(zip(node.inputs, strategy.inputs, strict=True))
        inputs = sum(
            self.local_bytes(name, layout)
            for name, layout in (pairs[slot] for slot in self.fusion.reads[node.name])
            if self.graph.values[name].requires_grad and name not in self.graph.parameter_of
        )
        if short_name(node.op) in LOSSES and not self.stack.fused_loss:
            inputs *= 2  # in two steps, the logarithm of a softmax and picking from it: the gradient of the former too
        written = self.fusion.writes[node.name]
        return inputs + sum(self.local_bytes(node.outputs[x].name, strategy.outputs[x]) for x in written)

    def _kernels(self, node: Node, strategy: Strategy) -> Cost:
        work, device = work_of(node), self.cluster.device
        if work is Work.MATMUL:
            return self.product(node, strategy)
        has_backward = any(value.requires_grad for value in node.outputs)
        if work is Work.ATTENTION:
            found = self.attention(node, strategy)
            return Cost(found.forward_s, found.backward_s if has_backward else 0.0)
        ins = out = trained = 0.0
        for slot in self.fusion.reads[node.name]:
            size = self.local_bytes(node.inputs[slot], strategy.inputs[slot])
            ins += size
            trained += size if self.graph.values[node.inputs[slot]].requires_grad else 0.0
        if work is Work.VIEW:
            cut = short_name(node.op) in _CUTTING
            return Cost(0.0, self._moved_s(node, 2 * trained) if cut and has_backward else 0.0)
        for slot in self.fusion.writes[node.name]:
            out += self.local_bytes(node.outputs[slot].name, strategy.outputs[slot])
        if short_name(node.op) in ("embedding", "embedding_bag"):
            masked = 2 if strategy.call else 1  # rows that another rank holds are put to zero in a second pass
            forward, backward = masked * 2 * out, trained + masked * 2 * out
            return Cost(memory_bound_s(forward, device), memory_bound_s(backward, device) if has_backward else 0.0)
        if short_name(node.op) == "add" and self.stack.fusion == "none":
            # The gradient of the sum is that of its terms; a broadcast one is reduced.
            shape = self.shapes[node.output.name]
            terms = [
                self.local_bytes(n, x)
                for n, x in zip(node.inputs, strategy.inputs, strict=True)
                if self.graph.values[n].requires_grad and self.shapes[n] != shape
            ]
            return Cost(memory_bound_s(ins + out, device), sum(memory_bound_s(out + term, device) for term in terms))
        if short_name(node.op) in LOSSES and not self.stack.fused_loss:
            forward, backward = _LOSS_PASSES["sharded" if strategy.call else "whole"]
            return Cost(memory_bound_s(forward * ins, device), memory_bound_s(backward * ins, device))
        mask = self._mask_bytes(node, strategy)
        # Backward, what was kept and the gradients of what was written are read, those of what was read are written.
        return Cost(
            self._moved_s(node, ins + out + mask),
            self._moved_s(node, ins + out + trained + mask) if has_backward else 0.0,
        )

    def _moved_s(self, node: Node, moved_bytes: float) -> float:
        """Seconds of moving bytes as a kernel, or as a part of one that another node begins."""
        seconds = memory_bound_s(moved_bytes, self.cluster.device)
        return seconds if node.name in self.fusion.launches else seconds - self.cluster.device.kernel_launch_s

    def _mask_bytes(self, node: Node, strategy: Strategy) -> float:
        """The byte an element that dropout keeps to know what it dropped; a compiling stack draws it again."""
        if short_name(node.op) not in ("dropout", "native_dropout") or self.stack.fusion == "compiled":
            return 0.0
        name = node.output.name
        return self.local_bytes(name, strategy.outputs[0]) / dtype_bytes(self.dtype(name))

    def _reductions(self, node: Node) -> Cost:
        """Collectives inside a sharded call: a vocabulary-parallel loss reduces a maximum, a sum and logits."""
        rows = self.shapes[node.inputs[0]][0]
        return Cost(3 * all_reduce_s(rows * 4, Group(self.tp, 1), self.cluster), 0.0)
