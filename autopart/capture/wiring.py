"""Wiring: where the nodes of a graph take their values from, as arrays, to compare many runs of nodes at once."""

import numpy as np
from numpy.typing import NDArray

from autopart.ir.graph import Graph, Region

Numbers = NDArray[np.int64]


class Wiring:
    """The values of a graph, numbered: who makes each, at which place among its outputs, and who takes it last."""

    def __init__(self, graph: Graph) -> None:
        number = {name: index for index, name in enumerate(graph.values)}
        self._names = list(number)
        inputs = [node.inputs for node in graph.nodes]
        self._inputs = np.array([number[name] for names in inputs for name in names], dtype=np.int64)
        self._input_start = np.cumsum([0, *map(len, inputs)])
        self._outputs = np.array([number[value.name] for node in graph.nodes for value in node.outputs], dtype=np.int64)
        self._output_start = np.cumsum([0, *(len(node.outputs) for node in graph.nodes)])
        self._producer = np.full(len(number), -1)
        self._place = np.zeros(len(number), dtype=np.int64)
        for index, node in enumerate(graph.nodes):
            for place, value in enumerate(node.outputs):
                self._producer[number[value.name]] = index
                self._place[number[value.name]] = place
        self._last_use = np.array([max(graph.consumers[name], default=-1) for name in self._names], dtype=np.int64)
        self._first_use = np.array([min(graph.consumers[name], default=-1) for name in self._names], dtype=np.int64)
        self._last_use[[number[name] for name in sorted(graph.leaving)]] = len(graph.nodes)
        self._weight = np.array([name in graph.weights for name in self._names], dtype=bool)

    def region(self, start: int, period: int, count: int) -> Region | None:
        """The region, if every run takes its values from the same places: itself, the run before, or one fixed value.

        Args:
            start: the first node.
            period: nodes a run; all runs have equal labels.
            count: of runs.
        """
        stop = start + period * count
        taken = _by_run(self._inputs, self._input_start, start, stop, count)
        made = _by_run(self._outputs, self._output_start, start, stop, count)
        if count < 2 or taken is None or made is None:
            return None
        carried, fixed = self._sources(taken, start, stop, period)
        if carried is None or len(set(carried.values())) != len(carried) or fixed & carried.keys():
            return None
        if not self._results_carried(made, start, stop, period, frozenset(carried.values())):
            return None
        return Region(start, period, count, tuple((self._names[value], source) for value, source in carried.items()))

    def _sources(
        self, taken: Numbers, start: int, stop: int, period: int
    ) -> tuple[dict[int, tuple[int, int]] | None, frozenset[int]]:
        """What enters from the run before, by what enters the first run, and all fixed values; None if runs differ."""
        producer, place = self._producer[taken], self._place[taken]
        run, node = np.divmod(producer - start, period)
        run[(producer < start) | (producer >= stop)] = -1  # made elsewhere
        own = np.arange(len(taken))[:, None]
        inside, before = run[0] == 0, run[1] == 0
        weight, before = ~inside & ~before & self._weight[taken[0]], ~inside & before
        fixed = ~inside & ~before & ~weight
        alike = (node == node[1]) & (place == place[1])
        right = np.where(inside, alike & (run == own), (taken == taken[0]) | weight)
        right[1:, before] = (alike & (run == own - 1))[1:, before]
        kinds = 1 + (np.diff(np.sort(taken[:, weight], axis=0), axis=0) != 0).sum(axis=0)
        weights_right = self._weight[taken[:, weight]].all() and np.isin(kinds, (1, len(taken))).all()
        if not (right.all() and weights_right):
            return None, frozenset()
        # A layer that is run again elsewhere is one module there too: it would be held twice, with two gradients.
        begin = start + own * period
        unshared = taken[:, weight][:, kinds == len(taken)]
        if ((self._first_use[unshared] < begin) | (self._last_use[unshared] >= begin + period)).any():
            return None, frozenset()
        carried: dict[int, tuple[int, int]] = {}
        for slot in np.flatnonzero(before).tolist():
            source = (int(node[1, slot]), int(place[1, slot]))
            if carried.setdefault(int(taken[0, slot]), source) != source:
                return None, frozenset()
        return carried, frozenset(taken[0, fixed].tolist())

    def _results_carried(
        self, made: Numbers, start: int, stop: int, period: int, carried: frozenset[tuple[int, int]]
    ) -> bool:
        """Whether all that leaves the region is what its last run would hand to a next one."""
        escaping = made[self._last_use[made] >= stop]
        nodes, places = self._producer[escaping], self._place[escaping]
        if (nodes < stop - period).any():
            return False
        return carried.issuperset(zip(((nodes - start) % period).tolist(), places.tolist(), strict=True))


def _by_run(values: Numbers, starts: Numbers, start: int, stop: int, count: int) -> Numbers | None:
    """The values of the nodes from `start` to `stop`, a row a run; None if runs have different numbers of them."""
    own = values[starts[start] : starts[stop]]
    lengths = np.diff(starts[start : stop + 1]).reshape(count, -1) if count > 0 else np.zeros((0, 0))
    return own.reshape(count, -1) if count > 0 and (lengths == lengths[0]).all() else None
