"""A network's backbone under an image classifier, for pre-training on ImageNet."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from eseg_jax.models.layers import Activation, ConvBN, Style, classifier


class Classifier(nn.Module):
    """Images [n, h, w, 3] -> {"logits": [n, classes] float32, "aux": {}}.

    Global average of the backbone's last feature, then one fully connected layer.

    Attributes:
      num_classes: channels of the logits.
      trunk: the backbone, images -> {…: feature}; the last feature is the deepest.
      backbone_name: its name in the segmentation network and here.
      style: padding, normalisation, initialisation and compute type.
      head_features: of EfficientNet's 1x1 convolution before the average; 0 for none.
      activation: of that convolution.
    """

    num_classes: int
    trunk: nn.Module
    backbone_name: str
    style: Style
    head_features: int = 0
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict:
        features = self.trunk.copy(name=self.backbone_name)(images, train)
        x = list(features.values())[-1]
        if self.head_features:
            x = ConvBN(
                self.head_features,
                self.style,
                activation=self.activation,
                name="head",
            )(x, train)
        x = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        logits = classifier(self.num_classes, self.style)(x)
        return {"logits": logits[:, 0, 0], "aux": {}}


def source_name(name: str) -> str | None:
    """Which variable of a classifier starts a network's variable, or None.

    Names are as in the collections "params" and "batch_stats", joined by "/". What is
    not the backbone's has None: it is trained from its initial value. DFANet's
    sub-networks all start from the one that was pre-trained (§4.1), but for what
    reads a wider concatenation there: of the first block of each stage after the
    first sub-network, the first convolution and the shortcut. Its attentions' fully
    connected layers are the classifier.
    """
    if re.match(r"(encoder|backbone)/", name):
        return name
    if fully_connected := re.fullmatch(r"attention_\d+/fc/(\w+)", name):
        return f"classifier/{fully_connected[1]}"
    if sub_network := re.fullmatch(r"backbone_(\d+)/(.*)", name):
        number, rest = sub_network.groups()
        if number != "1" and re.match(r"enc\d/blocks_0/(conv1|shortcut)/", rest):
            return None
        return f"backbone_1/{rest}"
    return None
