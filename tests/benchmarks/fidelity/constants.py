"""The fitted constants: which figures of the files of `cost_models` were fitted on published runs."""

from tests.benchmarks.fidelity.constant import Constant

_MATMUL, _FLASH = "matmul_fraction.half", "attention_fraction.flash"

# What shares its kernels shares their speed: Megatron-LM up to 2021 with DeepSpeed's fork of it, Megatron-LM and its
# core since, and torch's own. The newest, NeMo's, are what the files of devices are for.
_UNTIL_2021 = "megatron-2020, megatron-2021, deepspeed-zero3-2021, megatron-deepspeed-2022, gpt-neox"
_SINCE_2022 = "megatron-2022, megatron-2023-zb, megatron-core"
_TORCH = "llm-foundry-fsdp, fms-fsdp, torchtitan, nanotron, autopart"
_FSDP = "llm-foundry-fsdp, fms-fsdp, torchtitan"

# kind, owner, field; what was known before, how far off that could be, and what is physically possible
CONSTANTS: tuple[Constant, ...] = (
    Constant("device", "a100-", _MATMUL, 0.86, 0.02, 0.6, 0.95),
    Constant("device", "a100-", "bandwidth_fraction", 0.85, 0.12, 0.5, 0.92),
    Constant("device", "a100-", _FLASH, 0.62, 0.08, 0.3, 0.75),
    Constant("device", "a100-", "attention_fraction.flash1", 0.325, 0.2, 0.15, 0.6),
    Constant("device", "a100-", "speed_spread", 0.006, 0.3, 0.001, 0.03),
    Constant("device", "h100-sxm-80gb", _MATMUL, 0.75, 0.05, 0.5, 0.9),
    Constant("device", "h100-sxm-80gb", "matmul_fraction.float8", 0.68, 0.12, 0.4, 0.9),
    Constant("device", "h100-", "bandwidth_fraction", 0.85, 0.12, 0.5, 0.92),
    Constant("device", "h100-sxm-80gb", _FLASH, 0.38, 0.1, 0.15, 0.6),
    Constant("device", "h100-", "attention_fraction.flash1", 0.21, 0.3, 0.08, 0.4),
    Constant("device", "h100-", "attention_fraction.cudnn", 0.60, 0.12, 0.3, 0.75),
    Constant("device", "h100-", "speed_spread", 0.012, 0.3, 0.002, 0.03),
    Constant("device", "h100-sxm-96gb-hbm2e-500w", _MATMUL, 0.65, 0.12, 0.4, 0.8),
    Constant("device", "h100-sxm-96gb-hbm2e-500w", "matmul_fraction.float8", 0.58, 0.15, 0.3, 0.8),
    Constant("device", "h100-sxm-96gb-hbm2e-500w", _FLASH, 0.32, 0.15, 0.15, 0.6),
    Constant("device", "v100-", _MATMUL, 0.88, 0.06, 0.5, 0.99),
    Constant("stack", _UNTIL_2021, "product_speed", 0.95, 0.04, 0.7, 1.0),
    Constant("stack", _SINCE_2022, "product_speed", 1.0, 0.03, 0.7, 1.05),
    Constant("stack", _TORCH, "product_speed", 0.95, 0.04, 0.7, 1.0),
    Constant("stack", _FSDP, "contention", 1.12, 0.05, 1.0, 1.4, "factor"),
    Constant("stack", "nemo-megatron-core", "tensor_overlap", 0.8, 0.2, 0.0, 1.0),
    Constant("cluster", "jean-zay", "device_speed", 1.0, 0.3, 0.5, 1.05),
    Constant("cluster", "jean-zay", "inter_node", 0.8, 0.2, 0.2, 1.0),
    Constant("cluster", "a100-4x200g", "inter_node", 0.9, 0.1, 0.2, 1.0),
)
