"""SharedConversions: those of a value that several nodes use, each done once for all of them.

A state is a set of layouts in which the value is needed. Gradients of one layout are summed in it, then those of all
conversions in the layout of the value: a use adds one gradient, a conversion makes one of those of its uses, and the
first one of all is not added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autopart.ir.placement import Layout
from autopart.search.layout_prices import IMPOSSIBLE, LayoutPrices

Costs: TypeAlias = NDArray[np.float64]  # the first axis is of the objectives
Numbers: TypeAlias = NDArray[np.intp]
MOST_LAYOUTS = 4  # in which a value is needed at once


@dataclass(frozen=True, eq=False)
class SharedConversions:
    """Numbers of conversions and sums, see `LayoutPrices`, by what is chosen.

    Attributes:
        converted, summed: by the layout that the value has and the state, those of each conversion; padded with such as
            cost nothing.
        origin: by the layout that the value has, the sum of gradients in it.
        used: of each use, by what its node chooses, the sum in the layout that it wants.
        missing: of each use, by the state and what its node chooses, whether that layout is not there.
    """

    converted: Numbers
    summed: Numbers
    origin: Numbers
    used: tuple[Numbers, ...]
    missing: tuple[NDArray[np.bool_], ...]

    @classmethod
    def of(
        cls, name: str, haves: Sequence[Layout], wanted: Sequence[Sequence[Layout]], prices: LayoutPrices
    ) -> "SharedConversions":
        """Those of the value `name`.

        Args:
            name: of the value.
            haves: the layouts that it may have.
            wanted: of each use, those that the strategies of its node want.
            prices: gives the numbers.
        """
        number: dict[Layout, int] = {}  # of every layout that the value has or is wanted in
        held = [number.setdefault(have, len(number)) for have in haves]
        asked = [[number.setdefault(layout, len(number)) for layout in own] for own in wanted]
        targets = list(dict.fromkeys(own for each in asked for own in each))
        layouts = list(number)
        sum_of = np.array([prices.sum(name, layout) for layout in layouts])
        conversion = np.zeros((len(layouts), len(layouts)), dtype=np.intp)  # of a layout into itself: FREE
        for have in dict.fromkeys(held):
            for want in targets:
                conversion[have, want] = prices.conversion(name, layouts[have], layouts[want])
        states = [
            own
            for count in range(1, min(len(wanted), MOST_LAYOUTS) + 1)
            for own in combinations(targets, count)
            if (conversion[np.ix_(held, own)] != IMPOSSIBLE).all(axis=1).any()
        ]
        most = max(map(len, states))
        needed = np.array([[[*own, *[have] * (most - len(own))] for own in states] for have in held])
        there = np.zeros((len(states), len(layouts)), dtype=bool)
        for state, layouts_there in enumerate(states):
            there[state, list(layouts_there)] = True
        return cls(
            np.take_along_axis(conversion[held][:, None, :], needed, axis=2),
            sum_of[needed],
            sum_of[held],
            tuple(sum_of[own] for own in asked),
            tuple(~there[:, own] for own in asked),
        )

    def making_s(self, conversions_s: Costs, sums_s: Costs, *, times: int, made: int) -> Costs:
        """Seconds of the conversions and their sums, by the layout that the value has and the state.

        Args:
            conversions_s: by objective and number.
            sums_s: by objective and number.
            times: how often it is used.
            made: how many of its gradients are not added to others.
        """
        first = sums_s[:, self.origin][..., None]
        each = conversions_s[:, self.converted] + first[..., None] - sums_s[:, self.summed]
        return np.asarray(each.sum(axis=-1) * times - first * made)

    def using_s(self, _: Costs, sums_s: Costs, *, use: int, runs: int) -> Costs:
        """Seconds of adding a use's gradients, by the state and what its node chooses; infinite where that is missing.

        Args:
            sums_s: by objective and number.
            use: which.
            runs: how often its node runs.
        """
        return np.where(self.missing[use], np.inf, (sums_s[:, self.used[use]] * runs)[:, None, :])
