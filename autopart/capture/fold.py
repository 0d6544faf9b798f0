"""Fold a graph: find runs of structurally equal regions (the layers of a model) and mark them.

Equality is of structure: ops, attributes, shapes and wiring. Module names never make two regions equal; they only
break ties between equally good places to start.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autopart.capture.wiring import Wiring
from autopart.ir.folded import folded
from autopart.ir.graph import Arg, Graph, Literal, Node, Ref, Region
from autopart.ir.units import layer_parts

CANDIDATE_PERIODS = 24
SMALLEST_PERIOD = 2
# Layers that differ in a fixed value alone (every sixth has another mask) repeat at a multiple of the common distance.
MOST_KINDS = 8

Labels = NDArray[np.int64]


def fold(graph: Graph) -> Graph:
    """`graph` with its `regions` found, in order and disjoint."""
    labels, wiring = _labels(graph), Wiring(graph)
    regions: list[Region] = []
    pending = [(0, len(graph.nodes))]
    while pending:
        start, stop = pending.pop()
        region = _best_region(graph, wiring, labels, start, stop)
        if region is not None:
            regions.append(region)
            pending += [(start, region.start), (region.stop, stop)]
    return replace(graph, regions=tuple(sorted(regions, key=lambda region: region.start)))


def _labels(graph: Graph) -> Labels:
    """One number a node, equal for nodes that are equal but for the values they take.

    Values that inputs and constants decide are told apart by how they are computed: a layer with another mask is
    another layer.
    """
    numbers: dict[object, int] = {}

    def number(label: object) -> int:
        return numbers.setdefault(label, len(numbers))

    fixed = {item.value.name: number(("input", item.path)) for item in graph.inputs}

    def shown(name: str) -> object:
        value = graph.values[name]
        return (value.shape, value.dtype, value.requires_grad, name in graph.weights, fixed.get(name))

    labels = []
    for node in graph.nodes:
        labels.append(number(_label(node, shown)))
        if node.output.name in graph.recomputable:
            fixed.update((value.name, number((labels[-1], index))) for index, value in enumerate(node.outputs))
    return np.array(labels, dtype=np.int64)


def _label(node: Node, shown: Callable[[str], object]) -> object:
    def text(arg: Arg) -> object:
        if isinstance(arg, Ref):
            return shown(arg.name)
        if isinstance(arg, tuple):
            return tuple(text(item) for item in arg)
        return (arg.kind, arg.text) if isinstance(arg, Literal) else (type(arg).__name__, arg)

    outputs = tuple((value.shape, value.dtype) for value in node.outputs)
    return (
        node.op,
        tuple(map(text, node.args)),
        tuple((key, text(arg)) for key, arg in node.kwargs),
        outputs,
        node.full,
    )


def _best_region(graph: Graph, wiring: Wiring, labels: Labels, start: int, stop: int) -> Region | None:
    runs = []
    for period in _periods(labels, start, stop):
        for first, last in _runs(labels, start, stop, period):
            runs.append((last - first, -period, first))
    for length, negative, first in sorted(runs, reverse=True):
        region = _aligned(graph, wiring, first, length, -negative)
        if region is not None:
            return region
    return None


def _periods(labels: Labels, start: int, stop: int) -> list[int]:
    """The most frequent distances between equal neighbours, commonest first, and then small multiples of them."""
    last: dict[int, int] = {}
    distances: Counter[int] = Counter()
    own = labels[start:stop].tolist()
    for index, label in enumerate(own):
        if label in last:
            distances[index - last[label]] += 1
        last[label] = index
    # A layer that uses an op k times shows the period only as sums of neighbouring distances.
    rare = Counter(own)
    unique = min((count for count in rare.values() if count > 1), default=0)
    anchors = [label for label, count in rare.items() if count == unique][:8] if unique else []
    for anchor in anchors:
        places = [index for index, label in enumerate(own) if label == anchor]
        distances.update({b - a: unique for a, b in pairwise(places)})
    common = [period for period, _ in distances.most_common(CANDIDATE_PERIODS)]
    every = dict.fromkeys(period * times for times in range(1, MOST_KINDS + 1) for period in common)
    return [period for period in every if SMALLEST_PERIOD <= period <= len(own) // 2]


def _runs(labels: Labels, start: int, stop: int, period: int) -> list[tuple[int, int]]:
    """Maximal stretches [first, last) in which every label equals the one a period later; at least two repeats."""
    equal = labels[start : stop - period] == labels[start + period : stop]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    stretches = zip((edges[::2] + start).tolist(), (edges[1::2] + start).tolist(), strict=True)
    return [(first, last + period) for first, last in stretches if last - first >= period]


def _aligned(graph: Graph, wiring: Wiring, first: int, length: int, period: int) -> Region | None:
    """The best region inside a run: among the possible starts, the one that carries least from layer to layer."""
    candidates: list[tuple[int, int, int, int, Region]] = []
    for shift in range(min(period, length - 2 * period + 1)):
        count = (length - shift) // period
        if count < 2:
            break
        start = first + shift
        region = wiring.region(start, period, count) or wiring.region(start, period, count - 1)
        if region is not None and _has_parameters(graph, region):
            candidates.append((len(region.carried), _splits_layers(graph, region), -region.count, shift, region))
    ordered = sorted(candidates, key=lambda item: item[:4])
    return next((region for *_, region in ordered if _names_alike(graph, region)), None)


def _has_parameters(graph: Graph, region: Region) -> bool:
    nodes = graph.nodes[region.start : region.start + region.length]
    return any(name in graph.parameter_of for node in nodes for name in node.inputs)


def _names_alike(graph: Graph, region: Region) -> bool:
    """Whether every run's own weights lie in modules of its own, by the same names: then a class can hold a run."""
    whole = folded(replace(graph, regions=(region,)))
    return layer_parts(whole, whole.loops[0]) is not None


def _splits_layers(graph: Graph, region: Region) -> int:
    """How many numbered modules ("layers.3") a run touches; a start at a module's own boundary touches one."""
    nodes = graph.nodes[region.start : region.start + region.length]
    return len({_layer(node.scope) for node in nodes} - {""})


def _layer(scope: str) -> str:
    parts = scope.split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return "" if numbered is None else ".".join(parts[: numbered + 1])
