"""Models of other tasks than causal language modelling: each built with its batch."""

from collections.abc import Callable

import transformers
from torch import nn

from tests.benchmarks.zoo import batches
from tests.benchmarks.zoo.resnet import ResNet
from tests.benchmarks.zoo.small_config import CONFIG_MAPPING, small_config
from tests.benchmarks.zoo.unet import UNet

Built = tuple[nn.Module, batches.Batch]


def bert_masked_lm() -> Built:
    """BERT, which fills in masked tokens."""
    return transformers.BertForMaskedLM(small_config(CONFIG_MAPPING["bert"], is_decoder=False)), batches.tokens()


def t5_conditional_generation() -> Built:
    """T5: relative position biases, a decoder which attends to an encoder."""
    return transformers.T5ForConditionalGeneration(
        small_config(CONFIG_MAPPING["t5"], decoder_start_token_id=0)
    ), batches.tokens()


def bart_conditional_generation() -> Built:
    """BART: learned positions, a decoder which attends to an encoder."""
    return transformers.BartForConditionalGeneration(small_config(CONFIG_MAPPING["bart"])), batches.tokens()


def whisper_conditional_generation() -> Built:
    """Whisper: convolutions over audio features, then an encoder and a decoder."""
    config = small_config(CONFIG_MAPPING["whisper"], num_mel_bins=16)
    frames = 2 * config.max_source_positions  # the second convolution halves them
    return transformers.WhisperForConditionalGeneration(config), batches.audio(config.num_mel_bins, frames)


def vit_image_classification() -> Built:
    """ViT: a Transformer over the patches of an image."""
    config = small_config(CONFIG_MAPPING["vit"], num_labels=batches.CLASSES)
    return transformers.ViTForImageClassification(config), batches.pixels_and_class()


def clip_contrastive() -> Built:
    """CLIP: an encoder of images and one of texts; the loss compares each sample with every other of the batch."""
    return transformers.CLIPModel(small_config(CONFIG_MAPPING["clip"])), batches.contrast()


def unet_diffusion() -> Built:
    """A U-Net which predicts noise."""
    return UNet(), batches.noise()


def resnet_image_classification() -> Built:
    """A ResNet, whose batch normalisation averages over the samples."""
    return ResNet(classes=batches.CLASSES), batches.image_and_label()


# By name: the family and the function that builds it.
TASKS: dict[str, tuple[str, Callable[[], Built]]] = {
    "bart-conditional-generation": ("encoder-decoder", bart_conditional_generation),
    "bert-masked-lm": ("dense transformer", bert_masked_lm),
    "clip-contrastive": ("multimodal", clip_contrastive),
    "resnet-image-classification": ("vision", resnet_image_classification),
    "t5-conditional-generation": ("encoder-decoder", t5_conditional_generation),
    "unet-diffusion": ("diffusion", unet_diffusion),
    "vit-image-classification": ("vision", vit_image_classification),
    "whisper-conditional-generation": ("encoder-decoder", whisper_conditional_generation),
}
