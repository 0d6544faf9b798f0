"""delay_weights: 1F1B whose weight gradients come some micro-batches after the gradients of the inputs."""

from autopart.ir.action import Action, Kind
from autopart.schedules.alternate import alternate


def delay_weights(stage: int, micro_batches: int, warm_up: int, delay: int) -> tuple[Action, ...]:
    """The actions of one stage: `warm_up` forwards, then F and B in turn, with W of micro-batch k - delay after B of k.

    What is left of W comes last. Once it is full, the stage holds warm_up + 1 + delay micro-batches at its peak.
    """
    forwards, backwards, weights = (
        [Action(kind, stage, m) for m in range(micro_batches)] for kind in (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT)
    )
    found: list[Action] = []
    for action in alternate(forwards, backwards, warm_up):
        found.append(action)
        if action.kind is Kind.BACKWARD and action.micro_batch >= delay:
            found.append(weights[action.micro_batch - delay])
    return (*found, *weights[max(0, micro_batches - delay) :])
