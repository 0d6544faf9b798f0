"""`python -m tests.benchmarks.zoo.initialization`: whether every architecture, replayed from a recording, is as built.

Prints the names of those that are not, to the last bit, and how many are.
"""

import torch

from autopart.runtime.build_recording import BuildRecording
from autopart.runtime.build_replay import replay
from autopart.runtime.build_tape import View
from tests.benchmarks.zoo.architectures import Architecture, architectures

SEED = 3


def differences(architecture: Architecture) -> list[str]:
    """The tensors that differ; models are built with seeds of their own, noise on every weight, and cast."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        built = architecture.build()[0]
    recording = BuildRecording(lambda: architecture.build()[0], SEED)
    expected = {**dict(built.named_parameters()), **dict(built.named_buffers())}
    recorded = {**dict(recording.model.named_parameters()), **dict(recording.model.named_buffers())}
    names: dict[View, list[str]] = {}
    for name, tensor in recorded.items():
        names.setdefault(recording.view(tensor), []).append(name)
    equal = {
        name
        for view, values in replay(recording.tape, list(names))
        for name in names[view]
        if name in expected and values.dtype == expected[name].dtype
        if torch.equal(values.nan_to_num(), expected[name].detach().nan_to_num())
    }
    return sorted((expected.keys() | recorded.keys()) - equal)


def main() -> None:
    """Compare all."""
    found = architectures()
    wrong = 0
    for architecture in found:
        different = differences(architecture)
        if different:
            wrong += 1
            print(f"{architecture.name}: {', '.join(different)}")
    print(f"{len(found) - wrong} of {len(found)} architectures are equal to the last bit")


if __name__ == "__main__":
    main()
