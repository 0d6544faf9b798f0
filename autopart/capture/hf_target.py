"""A Hugging Face model without weights, from a local config. Nothing is downloaded, no code beside the config runs."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopart.errors import CaptureError, InputsError, UnknownNameError


def load_hf(place: str, sequence_length: int | None = None) -> tuple[nn.Module, object | None]:
    """The model that the config in `place` describes, on the meta device in the config's dtype.

    Args:
        place: a directory with a config.json, or a json file.
        sequence_length: if given, a batch of tokens and labels of this length is made too.

    Raises:
        UnknownNameError: there is no such directory or file.
        CaptureError: transformers is not installed, or cannot make the model.
        InputsError: a sequence length for a model that is no causal language model.
    """
    path = Path(place)
    file = path / "config.json" if path.is_dir() else path
    if not place or not file.is_file():
        raise UnknownNameError(
            f"target 'hf:{place}': there is no file {str(file)!r}. Name a directory with a config.json, or a json "
            "file, on this machine; nothing is downloaded"
        )
    try:
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
    except ImportError as error:
        raise CaptureError("hf: targets need transformers: pip install 'autopart[hf]'") from error
    config: Any = _tried(
        file, lambda: AutoConfig.from_pretrained(str(file), local_files_only=True, trust_remote_code=False)
    )
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not causal:
        _refuse_length(file, sequence_length, config)
        warnings.warn(
            f"{file}: {type(config).__name__} has no causal language model in transformers, so this plans the bare "
            "model (AutoModel), which returns no loss. For another head or a loss, name a function that "
            "returns your model",
            stacklevel=3,
        )
    dtype = config.dtype or torch.get_default_dtype()
    auto: Any = AutoModelForCausalLM if causal else AutoModel
    with torch.device("meta"):
        model = _tried(file, lambda: auto.from_config(config, dtype=dtype, trust_remote_code=False))
    if sequence_length is None:
        return model, None
    # Two tensors: one passed twice would be captured as one input.
    batch = {name: torch.empty(2, sequence_length, dtype=torch.long, device="meta") for name in ("input_ids", "labels")}
    return model, batch


def _refuse_length(file: Path, sequence_length: int | None, config: Any) -> None:
    if sequence_length is not None:
        raise InputsError(
            f"{file}: a sequence length of {sequence_length} was given, but {type(config).__name__} has no causal "
            "language model in transformers. Name a function that returns (model, batch)"
        )


def _tried(file: Path, action: Any) -> Any:
    try:
        return action()
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and errors of its own here.
        raise CaptureError(f"transformers cannot make a model from {file}: {error}") from error
