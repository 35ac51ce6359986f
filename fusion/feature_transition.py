"""Cross-modality feature transition, then fusion: the networks of Zhang et al. 2021."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from backbones.channel_norm import ChannelNorm
from backbones.region_logits import region_logits
from backbones.sizes import Size, check_image, preset_of
from datamodules.layouts.case_files import MODALITIES
from errors import InputError

# T1 with T1ce shows anatomy and the core, T2 with FLAIR the oedema.
GROUPS = (slice(0, 2), slice(2, 4))
GROUP_WIDTH = 2
CLASSES = ("background", "necrosis", "oedema", "enhancing")
LEAK = 0.2


@dataclass(frozen=True)
class _Preset:
    widths: tuple[int, ...]  # of the U-Nets, a level each
    critic: tuple[int, ...]  # of the discriminators' strided convolutions


PRESETS = {
    "tiny": _Preset(widths=(8, 16, 32, 64), critic=(8, 16, 32)),
    "base": _Preset(widths=(16, 32, 64, 128, 256), critic=(16, 32, 64, 128)),
}


def conv_unit(in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolution of 3, instance norm without learned scale, leaky ReLU; the grid stays."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1),
        ChannelNorm(out_channels, affine=False),
        nn.LeakyReLU(LEAK, inplace=True),
    )


def conv_pair(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Two units: the first at the level's width, the second at the next level's."""
    return nn.Sequential(conv_unit(in_channels, width), conv_unit(width, out_channels))


class TransitionUNet(nn.Module):
    """The body of a generator: a U-shaped network without its last 1x1x1 convolution.

    Max pooling down; trilinear interpolation up, concatenated with the skip. The lowest level and
    the inner levels of the decoder halve their width in their second convolution.

    Args:
        in_channels: modalities of one group.
        widths: channels a level, finest first.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        *upper, lowest = widths
        inputs = [in_channels, *upper]
        self.down = nn.ModuleList(
            conv_pair(before, width, width)
            for before, width in zip(inputs[:-1], upper, strict=True)
        )
        self.bottom = conv_pair(inputs[-1], lowest, lowest // 2)
        self.up = nn.ModuleList(
            conv_pair(2 * width, width, width if level == 0 else width // 2)
            for level, width in reversed(list(enumerate(upper)))
        )
        self.pool = nn.MaxPool3d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.feature_channels = widths[0]

    def forward(self, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the decoder's maps of one group (B, 2, D, H, W).

        Returns:
            At full resolution (B, C, D, H, W) and at half (B, C, D/2, H/2, W/2).
        """
        skips = []
        features = group
        for level in self.down:
            features = level(features)
            skips.append(features)
            features = self.pool(features)
        features = self.bottom(features)
        half = features
        for level, skip in zip(self.up, reversed(skips), strict=True):
            half = features
            features = level(torch.cat([skip, self.enlarge(features)], dim=1))
        return features, half


class PatchDiscriminator(nn.Module):
    """Discriminator of real from translated groups of modalities, patch by patch.

    Convolutions of 4 with stride 2, instance norm from the second on, leaky ReLU, and one of
    stride 1 to a single map. (The first is bare in the authors' description; that a leaky ReLU
    follows it is decided here: two convolutions without one between them would be one.)

    Args:
        in_channels: modalities of one group.
        widths: channels of the strided convolutions.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for level, width in enumerate(widths):
            layers.append(nn.Conv3d(before, width, kernel_size=4, stride=2, padding=1))
            if level:
                layers.append(ChannelNorm(width, affine=False))
            layers.append(nn.LeakyReLU(LEAK, inplace=True))
            before = width
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv3d(before, 1, kernel_size=4, padding=1)

    def forward(self, group: torch.Tensor) -> torch.Tensor:
        """Return how real every patch of a group (B, 2, D, H, W) looks, (B, 1, d, h, w)."""
        features = self.layers(group)
        # float32: its output may be two voxels deep, where oneDNN's bfloat16 weight gradient reads
        # uninitialised memory
        with torch.autocast(features.device.type, enabled=False):
            return self.out(features.float())


class FeatureTransition(nn.Module):
    """Stage 1 of Zhang et al.: two generators between the groups, and two discriminators.

    Generator 0 translates (T1, T1ce) into (T2, FLAIR), generator 1 the other way; discriminator i
    judges what generator i makes.

    Args:
        size: `base` is the authors' (4,121,682 parameters a generator, 698,609 a discriminator);
            `tiny` has four levels of 8 to 64 channels.

    Raises:
        InputError: unknown size; an image of the wrong shape.
    """

    def __init__(self, size: Size = "base") -> None:
        super().__init__()
        preset = preset_of("FeatureTransition", PRESETS, size)
        self.size = size
        self.in_channels = len(MODALITIES)
        self.total_stride: int = 2 ** (len(preset.widths) - 1)
        self.streams = nn.ModuleList(TransitionUNet(GROUP_WIDTH, preset.widths) for _ in GROUPS)
        self.translate = nn.ModuleList(
            nn.Conv3d(preset.widths[0], GROUP_WIDTH, kernel_size=1) for _ in GROUPS
        )
        self.critics = nn.ModuleList(PatchDiscriminator(GROUP_WIDTH, preset.critic) for _ in GROUPS)

    def generate(self, index: int, group: torch.Tensor) -> torch.Tensor:
        """Return the other group, translated by generator `index` from (B, 2, D, H, W)."""
        full, _ = self.streams[index](group)
        return self.translate[index](full)

    def judge(self, index: int, group: torch.Tensor) -> torch.Tensor:
        """Return discriminator `index`'s output for a group of generator `index`'s kind."""
        return self.critics[index](group)

    def generator_weights(self) -> list[nn.Parameter]:
        """Return the weights of both generators."""
        return [*self.streams.parameters(), *self.translate.parameters()]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return every modality translated from the other group, (B, 4, D, H, W) to the same."""
        check_image(self, image)
        first, second = (image[:, group] for group in GROUPS)
        return torch.cat([self.generate(1, second), self.generate(0, first)], dim=1)


class FeatureTransitionFusion(nn.Module):
    """Cross-modality feature fusion, stage 2 of Zhang et al. 2021.

    "Cross-modality deep feature learning for brain tumor segmentation", Pattern Recognition 110.
    The bodies of the two generators become segmentation networks of their own group; their maps
    at full and half resolution are fused to one, which the sum of their class probabilities masks,
    a class at a time; a 1x1x1 convolution classifies it.

    Read in the authors' code: widths, layers, the fusion and mask attention, the classes, and (in
    `lightning_modules.feature_transition`) the losses of stage 1. Decided here: half-pixel centres
    of the interpolation, instance norm without learned scale (with the biases before it, which it
    cancels, the published 8.29 M and 4.12 M come out), and the logits: the four-class softmax is
    returned as the logits of the regions WT, TC, ET, whose probabilities are sums of classes, so
    that every network here means the same. A threshold of 0.5 on them is the largest class wherever
    one class has the majority.

    Args:
        in_channels: four modalities in the order t1, t1ce, t2, flair.
        out_channels: three regions.
        size: `base` is the authors' (8,285,212 parameters, sides of at least 32 voxels, multiples
            of 16); `tiny` has four levels of 8 to 64 channels (at least 16, multiples of 8).

    Raises:
        InputError: unknown size; other than four modalities and three regions; an image of the
            wrong shape.
    """

    def __init__(self, in_channels: int = 4, out_channels: int = 3, size: Size = "base") -> None:
        super().__init__()
        preset = preset_of("FeatureTransitionFusion", PRESETS, size)
        if (in_channels, out_channels) != (len(MODALITIES), len(CLASSES) - 1):
            raise InputError(
                f"FeatureTransitionFusion pairs four modalities and classifies three regions and "
                f"got {in_channels} and {out_channels}: give it t1, t1ce, t2, flair and WT, TC, ET."
            )
        width = preset.widths[0]
        self.size = size
        self.in_channels = in_channels
        self.total_stride: int = 2 ** (len(preset.widths) - 1)
        self.feature_channels: int = width * len(CLASSES)
        self.streams = nn.ModuleList(TransitionUNet(GROUP_WIDTH, preset.widths) for _ in GROUPS)
        self.classify = nn.ModuleList(nn.Conv3d(width, len(CLASSES), kernel_size=1) for _ in GROUPS)
        self.fuse_full = conv_unit(2 * width, width)
        self.fuse_half = conv_unit(2 * width, width)
        self.enlarge = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.fuse = conv_unit(2 * width, width)
        self.out = nn.Conv3d(self.feature_channels, len(CLASSES), kernel_size=1)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the fused map under the mask of every class, (B, 4C, D, H, W)."""
        check_image(self, image)
        pairs = [
            stream(image[:, group]) for stream, group in zip(self.streams, GROUPS, strict=True)
        ]
        full, half = (list(maps) for maps in zip(*pairs, strict=True))
        mask = torch.stack(
            [
                classify(one).softmax(dim=1)
                for classify, one in zip(self.classify, full, strict=True)
            ]
        ).sum(dim=0)  # (B, 4, D, H, W)
        fused = torch.cat(
            [self.fuse_full(torch.cat(full, 1)), self.enlarge(self.fuse_half(torch.cat(half, 1)))],
            dim=1,
        )
        fused = self.fuse(fused)  # (B, C, D, H, W)
        return torch.cat([fused * one for one in mask.split(1, dim=1)], dim=1)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the region logits (B, 3, D, H, W) of masked maps (B, 4C, D, H, W)."""
        return region_logits(self.out(features))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the region logits (B, 3, D, H, W) of an image (B, 4, D, H, W)."""
        return self.head(self.features(image))
