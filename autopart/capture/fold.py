"""Fold a graph: find runs of structurally equal regions (the layers of a model) and mark them.

Equality is of structure: ops, attributes, shapes and wiring. Module names never make two regions equal; they only
break ties between equally good places to start.
"""

from collections import Counter
from dataclasses import replace

from autopart.ir.folded import folded
from autopart.ir.graph import Arg, Graph, Literal, Node, Ref, Region
from autopart.ir.units import layer_prefixes, own_weights

CANDIDATE_PERIODS = 24
SMALLEST_PERIOD = 2


def fold(graph: Graph) -> Graph:
    """`graph` with its `regions` found, in order and disjoint."""
    labels = _labels(graph)
    regions: list[Region] = []
    pending = [(0, len(graph.nodes))]
    while pending:
        start, stop = pending.pop()
        region = _best_region(graph, labels, start, stop)
        if region is not None:
            regions.append(region)
            pending += [(start, region.start), (region.stop, stop)]
    return replace(graph, regions=tuple(sorted(regions, key=lambda region: region.start)))


def _labels(graph: Graph) -> list[int]:
    """One number a node, equal for nodes that are equal but for the values they take."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(_label(graph, node), len(numbers)) for node in graph.nodes]


def _label(graph: Graph, node: Node) -> object:
    def shown(arg: Arg) -> object:
        if isinstance(arg, Ref):
            value = graph.values[arg.name]
            return (value.shape, value.dtype, value.requires_grad, arg.name in graph.weights)
        if isinstance(arg, tuple):
            return tuple(shown(item) for item in arg)
        return (arg.kind, arg.text) if isinstance(arg, Literal) else (type(arg).__name__, arg)

    outputs = tuple((value.shape, value.dtype) for value in node.outputs)
    return (node.op, tuple(map(shown, node.args)), tuple((key, shown(arg)) for key, arg in node.kwargs), outputs)


def _best_region(graph: Graph, labels: list[int], start: int, stop: int) -> Region | None:
    runs = []
    for period in _periods(labels, start, stop):
        for first, last in _runs(labels, start, stop, period):
            runs.append((last - first, -period, first))
    for length, negative, first in sorted(runs, reverse=True):
        region = _aligned(graph, first, length, -negative)
        if region is not None:
            return region
    return None


def _periods(labels: list[int], start: int, stop: int) -> list[int]:
    """The most frequent distances between equal neighbours, commonest first."""
    last: dict[int, int] = {}
    distances: Counter[int] = Counter()
    for index in range(start, stop):
        label = labels[index]
        if label in last:
            distances[index - last[label]] += 1
        last[label] = index
    # A layer that uses an op k times shows the period only as sums of neighbouring distances.
    rare = Counter(labels[start:stop])
    if rare:
        unique = min((count for count in rare.values() if count > 1), default=0)
        anchors = [label for label, count in rare.items() if count == unique][:8]
        for anchor in anchors:
            places = [index for index in range(start, stop) if labels[index] == anchor]
            distances.update({b - a: unique for a, b in zip(places, places[1:], strict=False)})
    return [period for period, _ in distances.most_common(CANDIDATE_PERIODS) if period >= SMALLEST_PERIOD]


def _runs(labels: list[int], start: int, stop: int, period: int) -> list[tuple[int, int]]:
    """Maximal stretches [first, last) in which every label equals the one a period later; at least two repeats."""
    runs, first = [], None
    for index in range(start, stop - period + 1):
        equal = index < stop - period and labels[index] == labels[index + period]
        if equal and first is None:
            first = index
        elif not equal and first is not None:
            if index - first >= period:
                runs.append((first, index + period))
            first = None
    return runs


def _aligned(graph: Graph, first: int, length: int, period: int) -> Region | None:
    """The best region inside a run: among the possible starts, the one that carries least from layer to layer."""
    candidates: list[tuple[int, int, int, int, Region]] = []
    for shift in range(min(period, length - 2 * period + 1)):
        count = (length - shift) // period
        if count < 2:
            break
        start = first + shift
        region = _wired(graph, start, period, count) or _wired(graph, start, period, count - 1)
        if region is not None and _has_parameters(graph, region):
            candidates.append((len(region.carried), _splits_layers(graph, region), -region.count, shift, region))
    ordered = sorted(candidates, key=lambda item: item[:4])
    return next((region for *_, region in ordered if _names_alike(graph, region)), None)


def _has_parameters(graph: Graph, region: Region) -> bool:
    nodes = graph.nodes[region.start : region.start + region.length]
    return any(name in graph.parameter_of for node in nodes for name in node.inputs)


def _names_alike(graph: Graph, region: Region) -> bool:
    """Whether a run's own weights lie under one module each run, by the same names: then a class can hold a run."""
    whole = folded(replace(graph, regions=(region,)))
    loop = whole.loops[0]
    first = own_weights(whole, loop, 0)
    prefixes = layer_prefixes(whole, loop)
    if not first or not all(prefixes) or len(set(prefixes)) < region.count:
        return False
    relative = {name: target.removeprefix(prefixes[0]) for name, target in first.items()}
    return all(
        {name: target.removeprefix(prefixes[run]) for name, target in own_weights(whole, loop, run).items()} == relative
        for run in range(1, region.count)
    )


def _splits_layers(graph: Graph, region: Region) -> int:
    """How many numbered modules ("layers.3") a run touches; a start at a module's own boundary touches one."""
    nodes = graph.nodes[region.start : region.start + region.length]
    return len({_layer(node.scope) for node in nodes} - {""})


def _layer(scope: str) -> str:
    parts = scope.split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return "" if numbered is None else ".".join(parts[: numbered + 1])


def _wired(graph: Graph, start: int, period: int, count: int) -> Region | None:
    """The region, if every run takes its values from the same places: itself, the run before, or one fixed value."""
    if count < 2:
        return None
    stop = start + period * count
    carried: dict[str, tuple[int, int]] = {}
    fixed: set[str] = set()
    positions: dict[str, tuple[int, int, int]] = {}
    for index in range(start, stop):
        run, offset = divmod(index - start, period)
        for output, value in enumerate(graph.nodes[index].outputs):
            positions[value.name] = (run, offset, output)
    for offset in range(period):
        first = graph.nodes[start + offset].inputs
        second = graph.nodes[start + period + offset].inputs
        if len(first) != len(second):
            return None
        for slot, (a, b) in enumerate(zip(first, second, strict=True)):
            others = [graph.nodes[start + run * period + offset].inputs[slot] for run in range(count)]
            if a in positions:
                if any(positions.get(name) != (run, *positions[a][1:]) for run, name in enumerate(others)):
                    return None
            elif b in positions:
                source = positions[b][1:]
                if any(positions.get(name) != (run - 1, *source) for run, name in enumerate(others) if run):
                    return None
                if carried.setdefault(a, source) != source:
                    return None
            elif a in graph.weights:
                if any(name not in graph.weights for name in others):
                    return None
                if len(set(others)) not in (1, count):
                    return None
            elif any(name != a for name in others):
                return None
            else:
                fixed.add(a)
    if len(set(carried.values())) != len(carried) or fixed & carried.keys():
        return None
    if not _results_carried(graph, start, period, stop, positions, carried):
        return None
    return Region(start, period, count, tuple(carried.items()))


def _results_carried(
    graph: Graph,
    start: int,
    period: int,
    stop: int,
    positions: dict[str, tuple[int, int, int]],
    carried: dict[str, tuple[int, int]],
) -> bool:
    """Whether all that leaves the region is what its last run would hand to a next one."""
    last = (stop - start) // period - 1
    allowed = set(carried.values())
    for name, (run, *source) in positions.items():
        escapes = name in graph.outputs or any(index >= stop for index in graph.consumers[name])
        if escapes and (run != last or tuple(source) not in allowed):
            return False
    return True
