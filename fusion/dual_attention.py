"""Dual-fusion attention: early and global fusion of two networks' last feature maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from backbones.sizes import Size, preset_of
from errors import InputError
from fusion.global_attention import AttentionMode, GlobalFusionAttention
from fusion.inputs import check_features
from fusion.late import FromLateFusion, Start

Variant = Literal["paper", "released"]
Part = Literal["early", "global", "local"]
PARTS: tuple[Part, ...] = ("early", "global", "local")


@dataclass(frozen=True)
class _Preset:
    channels: int
    kv_grid: int


PRESETS = {
    # On one core a step on 64^3 voxels takes 1.0 s with the tiny head, 11 s with the base one.
    "tiny": _Preset(channels=16, kv_grid=8),
    "base": _Preset(channels=48, kv_grid=16),
}


class EarlyFusionAttention(nn.Module):
    """Mean of two maps and of a small residual network on both: the values of the attention.

    Three convolutions (3, 1, 3) on the concatenation plus a 1x1x1 shortcut from it, without norm
    or activation, in which the paper is silent.

    Args:
        channels: channels of each map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            nn.Conv3d(2 * channels, channels, kernel_size=3, padding=1),
            nn.Conv3d(channels, channels, kernel_size=1),
            nn.Conv3d(channels, channels, kernel_size=3, padding=1),
        )
        self.shortcut = nn.Conv3d(2 * channels, channels, kernel_size=1)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the values (B, C, D, H, W) of two maps (B, C, D, H, W)."""
        joined = torch.cat([first, second], dim=1)  # (B, 2C, D, H, W)
        fused = self.fuse(joined) + self.shortcut(joined)
        return (fused + first + second) / 3


class LocalAttention(nn.Module):
    """Convolutions 1, 3, GELU, 1 and one skip connection: (B, C, D, H, W) to the same.

    Args:
        channels: channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv3d(channels, channels, kernel_size=1),
            nn.Conv3d(channels, channels, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv3d(channels, channels, kernel_size=1),
        )

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return the map plus its local refinement, (B, C, D, H, W)."""
        return feature_map + self.block(feature_map)


class DualFusionAttention(nn.Module):
    """The fusion head of Vo-Thanh et al., for exactly two networks.

    "3D Dual-Fusion Attention Network for Brain Tumor Segmentation": each map is brought to C
    channels; their early fusion gives the values, the first map the queries and the second the
    keys of a global attention; a local attention and two 1x1x1 convolutions (with a GELU between
    them; the paper is silent) give the logits.

    Args:
        in_channels: feature channels of the two networks: queries first, keys second.
        out_channels: regions.
        size: `base` is the paper's (48 channels, keys pooled to 16^3 cells); `tiny` has 16
            channels and 8^3 cells, for a processor.
        attention: `pooled`, `exact`, `channel` or `none`; see `GlobalFusionAttention`. `plane`
            belongs to the released variant.
        kv_grid: cells a side of the pooled keys and values; unset: the size's.
        exact_below: largest number of voxels that `pooled` treats exactly.
        channels: C; unset: the size's.
        variant: `paper`, or `released`: attention as the released code computes it (`plane`,
            cubic patches only), without that code's wrong features and doubled skip.
        start: `late` or `zero`; see `FromLateFusion`.
        parts: those of the paper's three attentions that are used, for ablations: without `early`
            the values are the mean of both maps, without `global` the values go on as they are
            (as with the attention `none`), without `local` nothing refines them.
        bounded: whether the gain of the global attention is; see `GlobalFusionAttention`.

    Raises:
        InputError: other than two networks; unknown size, attention, variant, start or part; no
            part at all; no channels or cells; a variant that contradicts the attention.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 3,
        size: Size = "base",
        attention: AttentionMode = "pooled",
        kv_grid: int | None = None,
        exact_below: int = 32768,
        channels: int | None = None,
        variant: Variant = "paper",
        start: Start = "late",
        parts: Sequence[Part] = PARTS,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        preset = preset_of("DualFusionAttention", PRESETS, size)
        if len(in_channels) != 2:
            raise InputError(
                f"DualFusionAttention fuses exactly two networks and got {len(in_channels)}: list "
                "two under `backbones`, or use EarlyFusion or LateFusion, which take any number."
            )
        mode = _attention_of(variant, attention)
        used = _parts_of(parts, mode)
        width = preset.channels if channels is None else channels
        if width < 1:
            raise InputError(f"DualFusionAttention has {width} `channels`: give 1 or more.")
        self.in_channels = tuple(in_channels)
        self.normalise = nn.ModuleList(nn.Conv3d(one, width, kernel_size=1) for one in in_channels)
        self.early = EarlyFusionAttention(width) if "early" in used else None
        self.attend = GlobalFusionAttention(
            mode if "global" in used else "none",
            preset.kv_grid if kv_grid is None else kv_grid,
            exact_below,
            bounded=bounded,
        )
        self.local = LocalAttention(width) if "local" in used else nn.Identity()
        last = nn.Conv3d(width, out_channels, kernel_size=1)
        self.out = nn.Sequential(nn.Conv3d(width, width, kernel_size=1), nn.GELU(), last)
        self.begin = FromLateFusion("DualFusionAttention", start, last)

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution: it gives the logits, or their difference from late fusion's."""
        return self.out[-1]

    def forward(self, features: list[torch.Tensor], logits: list[torch.Tensor]) -> torch.Tensor:
        """Return logits (B, out_channels, D, H, W) of two feature maps (B, C_i, D, H, W)."""
        check_features("DualFusionAttention", features, self.in_channels)
        # Channels last is the order of tokens, and saves a seventh of a step on a processor (0.40 s
        # instead of 0.46 s for the tiny head on 2 x 48^3 in bfloat16).
        query, key = (
            project(one.contiguous(memory_format=torch.channels_last_3d))
            for project, one in zip(self.normalise, features, strict=True)
        )  # (B, C, D, H, W)
        value = (query + key) / 2 if self.early is None else self.early(query, key)
        fused = self.out(self.local(self.attend(query, key, value)))
        return self.begin(fused, logits)


def _attention_of(variant: Variant, attention: AttentionMode) -> AttentionMode:
    if variant not in ("paper", "released"):
        raise InputError(
            f"DualFusionAttention has no variant {variant!r}: set `variant` to paper or released."
        )
    if variant == "paper" and attention == "plane":
        raise InputError(
            "The attention 'plane' is that of the released code, not of the paper: set `variant` "
            "to released, or `attention` to pooled, exact, channel or none."
        )
    if variant == "released" and attention not in ("pooled", "plane"):
        raise InputError(
            f"The released variant computes the attention 'plane' and `attention` is "
            f"{attention!r}: leave `attention` out, or set `variant` to paper."
        )
    return "plane" if variant == "released" else attention


def _parts_of(parts: Sequence[Part], attention: AttentionMode) -> set[Part]:
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(
            f"DualFusionAttention has no part {unknown[0]!r}: `parts` lists some of "
            f"{', '.join(PARTS)}."
        )
    used = set(parts) - ({"global"} if attention == "none" else set())
    if not used:
        raise InputError(
            "DualFusionAttention is left without any part: list at least one of "
            f"{', '.join(PARTS)} under `parts`, or use EarlyFusion, which has none of them."
        )
    return used
