"""A dozen of the zoo: kinds of models that differ, each through capture, plan, emission and a compared step."""

import pytest

from tests.benchmarks.zoo.architectures import architectures
from tests.benchmarks.zoo.trial import run_trial
from tests.worker_pool import WorkerPool

KNOWN = {architecture.name: architecture for architecture in architectures()}
# The share of matmul FLOPs that two tensor-parallel ranks divide, at the least.
DOZEN = {
    "llama": 0.99,
    "gpt2": 0.99,
    "falcon": 0.99,
    "gemma2": 0.99,
    "bert-masked-lm": 0.99,
    "t5-conditional-generation": 0.99,
    "deepseek_v3": 0.9,
    "mixtral": 0.0,
    "mamba2": 0.9,
    "falcon_h1": 0.9,
    "vit-image-classification": 0.99,
    "resnet-image-classification": 0.9,
    "unet-diffusion": 0.9,
}


@pytest.mark.parametrize("name", DOZEN)
def test_loss_and_gradients_are_those_of_one_process(worker_pool: WorkerPool, name: str) -> None:
    trial = run_trial(worker_pool, KNOWN[name])
    assert trial.result == "pass", trial.reason
    assert trial.flops_share >= DOZEN[name]
