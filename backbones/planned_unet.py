"""PlannedUNet: a U-Net as nnU-Net plans it for a data set, plain or with a residual encoder."""

import math
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import nn

from backbones.deep_supervision import DeeplySupervised
from backbones.nnunet_blocks import SLOPE, Decoder, Encoder, ResidualBlock, Triple
from backbones.region_logits import merge_classes, region_logits
from backbones.sizes import Size, check_image, preset_of


class PlannedUNet(DeeplySupervised):
    """The U-Net of nnU-Net (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z).

    Layers and weight names of its `dynamic_network_architectures`: `PlainConvUNet`, and
    `ResidualEncoderUNet` of "nnU-Net revisited" (https://arxiv.org/abs/2404.09556).
    `forward(image)` is `head(features(image))`: (B, in_channels, D, H, W) to logits
    (B, out_channels, D, H, W).

    Weights that nnU-Net trained load as they are: its files hold every tensor two or three times
    under different names, and an output layer a level; what is not needed here is left out.

    Args:
        in_channels: modalities.
        out_channels: regions.
        size: unused, as the other arguments state it; accepted because every network has a size.
        filters: channels of every level, finest first.
        kernels: kernel of every level, three numbers of voxels.
        strides: stride that leads to every level, three numbers of voxels.
        counts: convolutions, or residual blocks, of every level of the encoder.
        decoder_counts: convolutions of every level of the decoder, coarsest first.
        residual: whether the encoder is residual.
        classes: of a network whose output is a softmax over classes, the channels of background,
            necrosis, oedema and enhancing tumour: the region logits are exactly those of the sums
            of its probabilities. Unset: its output are logits of the regions.

    Raises:
        InputError: unknown size; an image of the wrong shape.
    """

    has_sizes = False  # one size for all: it fits fusions of any size

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        size: Size = "base",
        *,
        filters: list[int],
        kernels: list[list[int]],
        strides: list[list[int]],
        counts: list[int],
        decoder_counts: list[int],
        residual: bool = False,
        classes: list[list[int]] | None = None,
    ) -> None:
        super().__init__()
        preset_of(type(self).__name__, dict.fromkeys(get_args(Size)), size)
        self.size = size
        self.in_channels = in_channels
        self.filters = tuple(filters)
        self.classes = classes
        self.feature_channels: int = filters[0]
        # along every axis, between the finest and the coarsest grid
        self.reduction = tuple(math.prod(axis) for axis in zip(*strides, strict=True))
        self.total_stride: int = max(self.reduction)
        outputs = out_channels if classes is None else sum(map(len, classes))
        sides, steps = [_triple(one) for one in kernels], [_triple(one) for one in strides]
        self.encoder = Encoder(in_channels, filters, sides, steps, counts, residual)
        self.decoder = Decoder(filters, sides, steps, decoder_counts, outputs)
        self.apply(_initialise)
        self.register_load_state_dict_pre_hook(_drop_other_names)

    @property
    def out(self) -> nn.Module:
        """The last convolution."""
        (layer,) = self.decoder.seg_layers.values()
        return layer

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution where its output are the logits.

        Raises:
            AttributeError: when its output are classes.
        """
        if self.classes is not None:
            raise AttributeError("A network of classes has no layer whose output are the logits.")
        return self.out

    @property
    def level_channels(self) -> Sequence[int]:
        """Channels of the decoder's maps, coarsest first."""
        return tuple(reversed(self.filters[:-1]))

    def level_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the decoder's maps, coarsest first; the last is the input of the last layer."""
        check_image(self, image)
        return self.decoder(self.encoder(image))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""
        logits: torch.Tensor = self.out(features)
        if self.classes is None:
            return logits
        return region_logits(merge_classes(logits, self.classes))


def _triple(numbers: Sequence[int]) -> Triple:
    first, second, third = numbers
    return first, second, third


def _initialise(module: nn.Module) -> None:
    """Initialise as in He et al. (normal); every residual block begins as its skip."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
        nn.init.zeros_(module.conv2.norm.bias)


def _drop_other_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Remove from nnU-Net's weights the second names of tensors and the coarser output layers."""
    own = set(module.state_dict())
    for name in list(state_dict):
        inner = name.removeprefix(prefix)
        second = ".all_modules." in inner or inner.startswith("decoder.encoder.")
        coarser = inner.startswith("decoder.seg_layers.") and inner not in own
        if name.startswith(prefix) and (second or coarser):
            del state_dict[name]
