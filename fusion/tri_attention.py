"""TriAttentionFusion: an encoder a modality, fused by modality, by place and by correlation."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from backbones.channel_norm import ChannelNorm
from backbones.sizes import Size, check_image, preset_of
from datamodules.layouts.case_files import MODALITIES
from errors import InputError

SLOPE = 0.01  # of LeakyReLU, torch's default
CORRELATED = (("t1", "t1ce"), ("t2", "flair"))


@dataclass(frozen=True)
class _Preset:
    widths: tuple[int, ...]


PRESETS = {
    # A step on 2 x 48^3 voxels in bfloat16 takes one core 0.67 s (0.18 s with the tiny DynUNet).
    "tiny": _Preset(widths=(4, 8, 16, 32)),
    "base": _Preset(widths=(8, 16, 32, 64, 128)),
}


class DilatedResidualBlock(nn.Module):
    """A 3x3x3 convolution, plus two more of dilations 2 and 4 on its output.

    The two follow an instance norm and a LeakyReLU each; the sum is not normalised, so that its
    mean over the grid, which the modality attention reads, still carries information.

    Args:
        in_channels: channels that enter.
        channels: channels that leave.
        stride: stride of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.enter = nn.Conv3d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.residual = nn.Sequential(
            *(
                layer
                for dilation in (2, 4)
                for layer in (
                    ChannelNorm(channels),
                    nn.LeakyReLU(SLOPE, inplace=True),
                    nn.Conv3d(
                        channels, channels, 3, padding=dilation, dilation=dilation, bias=False
                    ),
                )
            )
        )

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, channels, ...) of a map (B, in_channels, ...), the grid over the stride."""
        entered = self.enter(feature_map)
        return entered + self.residual(entered)


class ModalityEncoder(nn.Module):
    """One modality's pyramid: a block at full resolution, then blocks that each halve the grid.

    Args:
        widths: channels of the levels, from the finest to the coarsest.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        entering = (1, *widths)
        self.blocks = nn.ModuleList(
            DilatedResidualBlock(entering[level], width, stride=2 if level else 1)
            for level, width in enumerate(widths)
        )

    def forward(self, modality: torch.Tensor) -> list[torch.Tensor]:
        """Return the levels' maps, from the finest to the coarsest, of an image (B, 1, D, H, W)."""
        pyramid: list[torch.Tensor] = []
        for block in self.blocks:
            pyramid.append(block(pyramid[-1] if pyramid else modality))
        return pyramid


class DualAttention(nn.Module):
    """Weights for the channels of all modalities and for every voxel, and the sum of both uses.

    Args:
        channels: channels of all modalities together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.modality = nn.Sequential(
            nn.Linear(channels, channels // 2),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 2, channels),
            nn.Sigmoid(),
        )
        self.space = nn.Sequential(nn.Conv3d(channels, 1, kernel_size=1), nn.Sigmoid())

    def weights(self, joined: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of channels (B, C, 1, 1, 1) and voxels (B, 1, D, H, W), in [0, 1]."""
        of_channels = self.modality(joined.mean(dim=(2, 3, 4)))  # (B, C)
        return of_channels[..., None, None, None], self.space(joined)

    def forward(self, joined: torch.Tensor) -> torch.Tensor:
        """Return the fused map (B, C, D, H, W) of all modalities' maps, concatenated."""
        of_channels, of_voxels = self.weights(joined)
        return joined * of_channels + joined * of_voxels


class CorrelationConstraint(nn.Module):
    """Divergence between a modality's bottom map and its prediction from the partner's map.

    A modality's map f, averaged over the grid, gives alpha, beta and gamma (two linear layers,
    LeakyReLU between them); alpha f^2 + beta f + gamma predicts the partner's map. Both become
    distributions over the channels of a voxel; the divergence KL(partner || prediction) is
    averaged over voxels, over both directions and over the pairs.

    Args:
        channels: channels of one modality's map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficients = nn.ModuleDict(
            {
                modality: nn.Sequential(
                    nn.Linear(channels, channels),
                    nn.LeakyReLU(SLOPE, inplace=True),
                    nn.Linear(channels, 3 * channels),
                )
                for pair in CORRELATED
                for modality in pair
            }
        )

    def predict(self, source: str, feature_map: torch.Tensor) -> torch.Tensor:
        """Return the map (B, C, ...) of a partner, from the source's map (B, C, ...)."""
        of_grid = self.coefficients[source](feature_map.mean(dim=(2, 3, 4)))  # (B, 3C)
        alpha, beta, gamma = of_grid[..., None, None, None].chunk(3, dim=1)
        return alpha * feature_map.square() + beta * feature_map + gamma

    def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the mean divergence, fp32 under any autocast, of maps (B, C, ...) by modality."""
        with torch.autocast(maps[0].device.type, enabled=False):
            named = dict(zip(MODALITIES, (one.float() for one in maps), strict=True))
            divergences = [
                _divergence(named[target], self.predict(source, named[source]))
                for pair in CORRELATED
                for source, target in (pair, pair[::-1])
            ]
            return torch.stack(divergences).mean()


def _divergence(target: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    pointwise = functional.kl_div(
        prediction.log_softmax(dim=1), target.log_softmax(dim=1), reduction="none", log_target=True
    )
    return pointwise.sum(dim=1).mean()


class TriAttentionFusion(nn.Module):
    """Tri-attention fusion of four encoders (Zhou et al., 2022), a network of its own.

    "A Tri-attention Fusion Guided Multi-modal Segmentation Network",
    https://arxiv.org/abs/2111.01623. `forward(image)` is `head(features(image))`: (B, 4, D, H, W)
    in the order t1, t1ce, t2, flair to logits (B, out_channels, D, H, W).

    The authors published no code that we know of. From their abstract: an encoder a modality, the
    dual attention (modality and space) as the fusion, a correlation between modalities learnt on
    top of it and held by a constraint, one decoder. From the literature, not confirmed: 8 to 128
    channels; convolutions of stride 2; residual blocks with dilations 2 and 4; instance norm and
    LeakyReLU; the form of both attentions and of the correlation, its pairs (t1, t1ce) and
    (t2, flair) in both directions, the divergence, and its weight of 0.1. Decided here, where we
    found nothing: normalisation before each dilated convolution, with learned scale and shift,
    none after the sum, and 3x3x3 convolutions without bias; fused maps keep all four modalities'
    channels; the decoder brings the coarser map to the finer one's channels by a 3x3x3
    convolution, repeats voxels to double the grid, and uses the encoders' block on it and the
    fused skip; the last map is normalised and activated; the coefficients of the
    correlation come from the map it predicts from; distributions run over the channels of a
    voxel, because over the voxels of a channel gamma would cancel; the divergence is a mean over
    pairs. The correlation acts on training alone: it changes no logit.

    A trainer may use two more methods, which any network can have: `forward_with_terms(image)`,
    the logits and extra terms of the loss by name, already weighted; and `maps(image)`, maps to
    look at, with the meaning of each channel in `map_channels`. Training that calls `forward`
    alone never reaches the weights of the constraint: then set its weight to 0.

    Args:
        in_channels: modalities, four.
        out_channels: regions.
        size: `base` is the paper's (8 to 128 channels an encoder, sides of at least 32 voxels,
            multiples of 16); `tiny` has four levels of 4 to 32 channels, for a processor (sides
            of at least 16 voxels, multiples of 8).
        correlation_weight: weight of the correlation constraint in the loss. With 0 there is no
            constraint, only the dual-attention network, which equal seeds give equal weights.

    Raises:
        InputError: unknown size, other than four modalities, a negative weight; an image of the
            wrong shape.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        size: Size = "base",
        correlation_weight: float = 0.1,
    ) -> None:
        super().__init__()
        preset = preset_of("TriAttentionFusion", PRESETS, size)
        if in_channels != len(MODALITIES):
            raise InputError(
                f"TriAttentionFusion has an encoder for each of {', '.join(MODALITIES)} and got "
                f"in_channels {in_channels}: set `in_channels` to {len(MODALITIES)}."
            )
        if not 0 <= correlation_weight < math.inf:
            raise InputError(
                f"correlation_weight is {correlation_weight} where 0 or more was expected: set it "
                "to 0 to train without the correlation, or leave it out for the paper's 0.1."
            )
        widths = preset.widths
        self.size = size
        self.in_channels = in_channels
        self.correlation_weight = correlation_weight
        self.feature_channels: int = widths[0]
        self.total_stride: int = 2 ** (len(widths) - 1)
        self.encoders = nn.ModuleList(ModalityEncoder(widths) for _ in MODALITIES)
        self.fuse = nn.ModuleList(DualAttention(len(MODALITIES) * width) for width in widths)
        coarser = (*widths[1:-1], len(MODALITIES) * widths[-1])  # channels from the level below
        self.ups = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(below, width, 3, padding=1, bias=False), nn.Upsample(scale_factor=2)
            )
            for below, width in zip(coarser, widths, strict=False)
        )
        self.decoder = nn.ModuleList(
            DilatedResidualBlock((1 + len(MODALITIES)) * width, width) for width in widths[:-1]
        )
        self.out = nn.Sequential(
            ChannelNorm(widths[0]),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv3d(widths[0], out_channels, kernel_size=1),
        )
        # Last, so that the weights of everything above do not depend on whether it is there.
        self.correlation: CorrelationConstraint | None = (
            CorrelationConstraint(widths[-1]) if correlation_weight else None
        )

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution, whose output are the logits."""
        return self.out[-1]

    @property
    def map_channels(self) -> dict[str, tuple[str, ...]]:
        """Meaning of the channels of each of `maps`."""
        levels = tuple(f"stride_{2**level}" for level in range(len(self.fuse)))
        return {"modality_attention": tuple(MODALITIES), "spatial_attention": levels}

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, feature_channels, D, H, W), input of the last layer."""
        return self._decode(self.encode(image))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""
        return self.out[-1](features)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of an image."""
        return self.head(self.features(image))

    def forward_with_terms(
        self, image: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the logits and the extra loss terms: `correlation`, weighted, a scalar in fp32."""
        levels = self.encode(image)
        logits = self.head(self._decode(levels))
        if self.correlation is None:
            return logits, {}
        return logits, {"correlation": self.correlation_weight * self.correlation(levels[-1])}

    @torch.no_grad()
    def maps(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return attention in [0, 1] on the image's grid, fp32, channels as in `map_channels`.

        `modality_attention` (B, 4, D, H, W) is one number a modality, the mean weight of its
        channels at the finest level; `spatial_attention` (B, levels, D, H, W) is the weight of a
        voxel from the finest to the coarsest level, interpolated.
        """
        grid = image.shape[2:]
        of_levels = [
            cast(DualAttention, fuse).weights(torch.cat(level, dim=1))
            for fuse, level in zip(self.fuse, self.encode(image), strict=True)
        ]
        of_channels = of_levels[0][0].float()
        of_modalities = torch.stack(
            [one.mean(1) for one in of_channels.chunk(len(MODALITIES), dim=1)], dim=1
        )
        of_voxels = [
            functional.interpolate(one.float(), size=grid, mode="trilinear").clamp(0, 1)
            for _, one in of_levels
        ]
        return {
            "modality_attention": of_modalities.expand(-1, -1, *grid),
            "spatial_attention": torch.cat(of_voxels, dim=1),
        }

    def encode(self, image: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """Return each level's maps of the four modalities, from the finest to the coarsest."""
        check_image(self, image)
        pyramids = [
            encoder(modality)
            for encoder, modality in zip(self.encoders, image.split(1, dim=1), strict=True)
        ]
        return list(zip(*pyramids, strict=True))

    def _decode(self, levels: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        """Return the decoder's map (B, feature_channels, D, H, W), normalised and activated."""
        *skips, bottom = (
            fuse(torch.cat(level, dim=1)) for fuse, level in zip(self.fuse, levels, strict=True)
        )
        features = bottom
        for up, block, skip in zip(
            reversed(self.ups), reversed(self.decoder), reversed(skips), strict=True
        ):
            features = block(torch.cat([skip, up(features)], dim=1))
        return self.out[:-1](features)
