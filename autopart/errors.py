"""The exception tree: every error that autopart raises on purpose.

AutopartError
├── CaptureError             the model cannot be turned into a graph
│   └── InputsError          no example batch could be derived, or the given one does not fit
├── PlanningError            no plan for what was asked
│   ├── InfeasiblePlanError  nothing fits the memory of the devices
│   └── PinError             a pinned degree or policy cannot be met
├── UnknownNameError         no such cluster, device, schedule, operator or target
├── RuleError                a sharding rule that cannot be read, or an op that none can be discovered for
├── PlanFileError            a plan file is damaged, or of another version
├── GraphFileError           a file with a captured graph is
├── PlanMismatchError        a plan made for another model, graph, world or batch
├── LaunchError              `train_step` outside a job of the plan's size, or ranks that disagree
│   └── WorkerError          a rank of `autopart.run` failed
├── BatchError               a batch that the plan cannot take
├── CheckpointError          a checkpoint that does not fit the model, or weights that have no values yet
└── UnsupportedError         known, wanted, and not built: says so instead of being wrong
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the user's code that stands in the way of capture.

    Attributes:
        location: "file.py:12"; "" where it is not known.
        source: the line of code there.
        module: path of the module whose forward it ran in, with `*` for the number where several layers have it; "" for
            the model itself and for the loss.
        construct: what it is, in words.
        advice: what to write instead.
        modules: the paths of all the modules whose forward it ran in, without `*`.
    """

    location: str
    source: str
    module: str
    construct: str
    advice: str
    modules: tuple[str, ...] = ()


class AutopartError(Exception):
    """Base of all errors raised on purpose; the message names the object, the numbers and the next step."""


class CaptureError(AutopartError):
    """The model cannot be captured; the message lists every place in the user's code, which `places` has as data."""

    def __init__(self, message: str, places: tuple[Place, ...] = ()) -> None:
        super().__init__(message)
        self.places = places


class InputsError(CaptureError):
    """There is no usable example batch."""


class PlanningError(AutopartError):
    """No plan exists for what was asked."""


class InfeasiblePlanError(PlanningError):
    """No plan fits the memory of the devices."""


class PinError(PlanningError):
    """A pinned degree or policy cannot be met."""


class UnknownNameError(AutopartError):
    """A name that is not in its catalogue; the message lists the known ones."""


class RuleError(AutopartError):
    """A sharding rule that cannot be read, or an op that none can be discovered for; the message says why."""


class PlanFileError(AutopartError):
    """A plan file that cannot be read."""


class GraphFileError(AutopartError):
    """A file with a captured graph that cannot be read."""


class PlanMismatchError(AutopartError):
    """A plan that was made for something else."""


class LaunchError(AutopartError):
    """The process is not in the job that the plan needs."""


class WorkerError(LaunchError):
    """A local worker process failed; the message carries its rank and traceback."""


class BatchError(AutopartError):
    """A batch that the plan cannot take."""


class CheckpointError(AutopartError):
    """A checkpoint that does not fit the model, or weights that have no values yet."""


class UnsupportedError(AutopartError):
    """Known, wanted, not built."""
