"""Nearest: which stack, cluster and family of models stand in for one that is not known here."""

import re
from collections.abc import Sequence

from tests.benchmarks.fidelity.run import Run

# By words in a name, the first that fits. What says "megatron" alone is dated by its devices.
_STACKS = (
    (("nemo", "megatron-bridge", "mcore", "transformer-engine"), "nemo-megatron-core"),
    (("megatron-core", "megascale"), "megatron-core"),
    (("neox",), "gpt-neox"),
    (("ulysses", "zero-3", "zero3", "zero-2", "zero2"), "fms-fsdp-eager"),
    (("deepspeed", "bigscience", "mt-nlg"), "megatron-deepspeed-2022"),
    (("alpa", "jax", "t5x", "maxtext", "levanter"), "alpa"),
    (("titan",), "torchtitan"),
    (("nanotron",), "nanotron"),
    (("foundry", "mosaic", "composer", "fairscale", "fairseq", "metaseq"), "llm-foundry-fsdp"),
    (("litgpt", "recipes", "fms"), "fms-fsdp"),
    (
        ("fsdp", "olmo", "accelerate", "lightning", "factory", "axolotl", "transformers", "colossal", "ddp", "nanogpt"),
        "fms-fsdp-eager",
    ),
)
# By a name as `gpu_name` spells it, the first that fits.
_CLUSTERS = (
    (r"gh200|h100-(nvl|94gb)", "dgx-h100"),
    (r"g?b(100|200|300)", "dgx-b200"),
    (r"h100-pcie", "h100-pcie"),
    (r"h200", "dgx-h200"),
    (r"h800", "hgx-h800"),
    (r"h100", "dgx-h100"),
    (r"a800", "hgx-a800"),
    (r"a100.*40gb", "dgx-a100-40gb"),
    (r"a100", "dgx-a100"),
    (r"v100.*16gb", "dgx-1"),
    (r"v100", "dgx-2"),
    (r"l40s", "l40s-pcie"),
)
_GATED = (
    *("llama", "mistral", "qwen", "gemma", "yi", "olmo", "granite", "internlm", "baichuan", "phi", "deepseek", "glm"),
    *("smollm", "chatglm", "tinyllama", "codellama", "vicuna", "exaone", "command"),
)
_GPT = ("gpt", "opt", "bloom", "mpt", "falcon", "pythia", "neox", "megatron", "turing", "starcoder", "galactica")
_NOT_DENSE = r"moe|mixtral|deepseek-?(v[23]|r1)|dbrx|grok|jamba|switch|gshard|gpt-?oss|a\d+b\b"
_NO_DECODER = re.compile(
    rf"{_NOT_DENSE}|mamba|rwkv|bert|\bt5|\bul2|vit|\bclip|whisper|unet|diffusion|\bdit\b|resnet|mlp-?mixer"
)


def nearest_stack(run: Run, stacks: Sequence[str]) -> str:
    """The stack whose words are in the name that a run gives; else one that shards and computes alike."""
    name = run.stack.lower().replace("_", "-").replace(" ", "-")
    if is_hopper(run.gpu) and "megatron" in name and "deepspeed" not in name:
        return "nemo-megatron-core"
    if "deepspeed" in name and run.zero >= 2 and run.pp == run.tp == 1:
        of_2021 = run.zero >= 3 and ("2021" in name or "SC'21" in run.source)
        return "deepspeed-zero3-2021" if of_2021 else "fms-fsdp-eager"
    for words, stack in _STACKS:
        if any(word in name for word in words) and stack in stacks:
            return stack
    if run.zero >= 3 and run.pp == 1:
        return "torchtitan" if is_hopper(run.gpu) else "fms-fsdp-eager"
    # Llama and what is like it is of 2023 or later, and so are grouped queries.
    if is_hopper(run.gpu) or "flash" in f"{name} {run.notes}".lower() or run.kv_heads < run.heads:
        return "megatron-core"
    if run.family.lower().startswith(_GATED):
        return "megatron-core"
    return "megatron-2022" if run.sequence_parallel or run.recompute == "selective" else "megatron-2021"


def is_hopper(gpu: str) -> bool:
    """Whether a device is of 2022 or later: what runs on it is of 2023 or later."""
    return any(word in gpu.lower() for word in ("h100", "h200", "h800", "h20", "b100", "b200"))


def gpu_name(gpu: str) -> str:
    """A device as `published_runs.csv` spells it: "NVIDIA A100-SXM4-40GB" and "A100 40 GB" alike "a100-sxm-40gb"."""
    name = re.sub(r"nvidia|tesla", "", gpu.lower())
    name = re.sub(r"(\d+)[ _-]*(gb|gib|g)\b", r"\1gb", name)
    name = re.sub(r"\bsxm\d\b", "sxm", re.sub(r"[^a-z0-9.]+", "-", name)).strip("-")
    kind, *rest = name.split("-")
    form = [word for word in rest if not word.endswith("gb")]
    sizes = [word for word in rest if re.fullmatch(r"\d+gb", word)]
    if kind in ("a100", "h100", "h200", "b200", "v100") and not form:
        form = ["sxm"]
    size = sizes or {"h100": ["80gb"], "h200": ["141gb"], "b200": ["180gb"]}.get(kind, [])
    # What else a name says, a memory of another kind or a limit of power, stands behind the memory.
    return "-".join([kind, *form[:1], *size, *form[1:]])


def nearest_cluster(gpu: str) -> str | None:
    """A cluster of the same generation of devices; None where there is none."""
    name = gpu_name(gpu)
    return next((cluster for pattern, cluster in _CLUSTERS if re.search(pattern, name)), None)


def nearest_family(family: str, gated: bool) -> str | None:
    """ "gpt", "llama" or "nemotron" for a decoder that is like one; None for other models.

    `gated` says what one of an unknown name is taken for: a layer of three products like Llama's, or of two.
    """
    name = family.lower()
    if _NO_DECODER.search(name):
        return None
    if "nemotron" in name:
        return "nemotron"
    if name.startswith(_GATED):
        return "llama"
    if any(word in name for word in _GPT):
        return "gpt"
    return "llama" if gated else "gpt"
