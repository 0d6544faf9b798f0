"""Nearest: which stack, cluster and family of models stand in for one that is not known here."""

from collections.abc import Sequence

from tests.benchmarks.fidelity.run import Run

# By words in a name, the first that fits. What says "megatron" alone is dated by its devices.
_STACKS = (
    (("nemo", "megatron-bridge", "mcore", "transformer-engine"), "nemo-megatron-core"),
    (("megatron-core", "megascale"), "megatron-core"),
    (("neox",), "gpt-neox"),
    (("deepspeed", "bigscience", "mt-nlg"), "megatron-deepspeed-2022"),
    (("alpa", "jax", "t5x", "maxtext", "levanter"), "alpa"),
    (("titan",), "torchtitan"),
    (("nanotron",), "nanotron"),
    (("foundry", "mosaic", "composer", "fairscale", "fairseq", "metaseq"), "llm-foundry-fsdp"),
    (("fms", "fsdp", "zero-3", "zero3", "olmo", "recipes", "accelerate", "lightning", "litgpt"), "fms-fsdp"),
)
_CLUSTERS = (
    (("b200", "gb200", "b100"), "dgx-b200"),
    (("gh200", "h100", "h800", "h20"), "dgx-h100"),
    (("a100", "a800"), "dgx-a100"),
    (("v100",), "dgx-2"),
)
_LLAMA = ("llama", "mistral", "qwen", "gemma", "yi", "olmo", "granite", "internlm", "baichuan", "phi", "deepseek")
_GPT = ("gpt", "opt", "bloom", "mpt", "falcon", "pythia", "neox", "megatron", "turing")


def nearest_stack(run: Run, stacks: Sequence[str]) -> str:
    """The stack whose words are in the name that a run gives; else one that shards and computes alike."""
    name = run.stack.lower().replace("_", "-").replace(" ", "-")
    for words, stack in _STACKS:
        if any(word in name for word in words) and stack in stacks:
            return stack
    if run.zero >= 3 and run.pp == 1:
        return "torchtitan" if is_hopper(run.gpu) else "fms-fsdp"
    if is_hopper(run.gpu):
        return "nemo-megatron-core" if "megatron" in name else "megatron-core"
    if "flash" in f"{name} {run.notes}".lower():
        return "megatron-core"
    return "megatron-2022" if run.sequence_parallel or run.recompute == "selective" else "megatron-2021"


def is_hopper(gpu: str) -> bool:
    """Whether a device is of 2022 or later: what runs on it is of 2023 or later."""
    return any(word in gpu.lower() for word in ("h100", "h200", "h800", "h20", "b100", "b200"))


def nearest_cluster(gpu: str) -> str | None:
    """A cluster of the same generation of devices; None where there is none."""
    name = gpu.lower()
    if "h200" in name and "gh200" not in name:
        return "dgx-h200"
    if "a100" in name and "40" in name:
        return "dgx-a100-40gb"
    return next((cluster for words, cluster in _CLUSTERS if any(word in name for word in words)), None)


def nearest_family(family: str) -> str | None:
    """ "gpt" or "llama" for a model that is like one; None for others."""
    name = family.lower()
    if any(word in name for word in ("moe", "mixtral", "mamba", "bert", "t5", "vit")):
        return None
    if "nemotron" in name:
        return "nemotron"
    if name.startswith(_LLAMA):
        return "llama"
    return "gpt" if any(word in name for word in _GPT) else None
