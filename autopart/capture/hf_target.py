"""A Hugging Face model without weights, from a local config. Nothing is downloaded, no code beside the config runs."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopart.capture.hf_batch import hf_batch
from autopart.errors import CaptureError, InputsError, UnknownNameError


def load_hf(place: str, sequence_length: int | None = None) -> tuple[nn.Module, object | None]:
    """The model that the config in `place` describes, on the meta device in the config's dtype.

    It is of the class that the config's `architectures` names; without one that transformers has, the causal language
    model of the config's kind; and if there is none either, the bare model, with a warning.

    Args:
        place: a directory with a config.json, or a json file.
        sequence_length: if given, a batch with samples of so many tokens is made too.

    Raises:
        UnknownNameError: there is no such directory or file.
        CaptureError: transformers is not installed, or cannot make the model.
        InputsError: a sequence length for a model that takes no tokens.
    """
    path = Path(place)
    file = path / "config.json" if path.is_dir() else path
    if not place or not file.is_file():
        raise UnknownNameError(
            f"target 'hf:{place}': there is no file {str(file)!r}. Name a directory with a config.json, or a json "
            "file, on this machine; nothing is downloaded"
        )
    try:
        from transformers import AutoConfig
        from transformers.utils import logging
    except ImportError as error:
        raise CaptureError("hf: targets need transformers: pip install 'autopart[hf]'") from error
    logging.set_verbosity_error()  # its advice is for those who go on to train or generate with the model
    config: Any = _tried(
        file, lambda: AutoConfig.from_pretrained(str(file), local_files_only=True, trust_remote_code=False)
    )
    dtype = config.dtype or torch.get_default_dtype()
    with torch.device("meta"):
        model: nn.Module = _tried(file, lambda: _build(config, dtype))
    _warn_without_loss(file, model, config)
    if sequence_length is None:
        return model, None
    batch = hf_batch(model, sequence_length)
    if batch is None:
        raise InputsError(
            f"{file}: a sequence length of {sequence_length} was given, but {type(model).__name__} takes no tokens, or "
            "they cannot be told from its config. Leave it out, or name a function that returns (model, batch)"
        )
    return model, batch


def _build(config: Any, dtype: torch.dtype) -> Any:
    """The model of the class that stands for `config`."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    for name in config.architectures or ():
        named: Any = getattr(transformers, name, None)
        if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
            return named._from_config(config, dtype=dtype)
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    return auto.from_config(config, dtype=dtype, trust_remote_code=False)


def _warn_without_loss(file: Path, model: nn.Module, config: Any) -> None:
    """Say so where the model is a bare one, whose output no loss can be taken of."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    bare: Any = MODEL_MAPPING.get(type(config), None)
    if type(model) is bare:
        warnings.warn(
            f"{file}: this plans {type(model).__name__}, a bare model that returns no loss. For one with a head and a "
            'loss name its class in the config, as in "architectures": ["BertForMaskedLM"]',
            stacklevel=4,
        )


def _tried(file: Path, action: Any) -> Any:
    try:
        return action()
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and errors of its own here.
        raise CaptureError(f"transformers cannot make a model from {file}: {error}") from error
