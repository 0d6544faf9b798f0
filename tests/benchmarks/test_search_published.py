"""The search is never worse than a published layout: a sample; `make search` compares all."""

import pytest

from tests.benchmarks.search_published import chosen, compared

# A pipeline of one stage a rank, one of four stages a rank, and a single node.
SAMPLE = ("zb_1.5B_m24_ZB-1p", "zb_6.2B_m24_1F1B-I", "kor22_t5_22B_seqsel")


@pytest.mark.parametrize("name", SAMPLE)
def test_the_search_is_not_worse(name: str) -> None:
    (found,) = compared(chosen([name]))
    assert not found.worse, found
