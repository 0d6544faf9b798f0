"""least_of_any_cuts_s: what a step on several kinds of devices does not take less than, however stages are cut."""

from autopart.search.candidate import Candidate


def least_of_any_cuts_s(candidate: Candidate) -> float:
    """A bound from a candidate whose cuts make the slowest stage as fast as memory allows.

    With any cuts some stage takes that long for both passes of a micro-batch, and it has all of them. For devices of
    one kind more is known, see `StepBound`.
    """
    if candidate.virtual_stages > 1:  # ranks have several stages
        return 0.0
    # Under ZeRO-3 a stage does not take the sum of its units' times, but no less than what it computes.
    passes_s = candidate.computing_s if candidate.keeping.zero >= 3 else (candidate.forward_s, candidate.backward_s)
    return candidate.micro_batches * max(f + b for f, b in zip(*passes_s, strict=True))
