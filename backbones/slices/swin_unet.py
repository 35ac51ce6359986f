"""Swin-Unet: a U-shaped network of Swin transformer blocks alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from monai.networks.blocks import PatchEmbed
from monai.networks.nets.swin_unetr import PatchMerging
from torch import nn
from torch.nn import functional

from backbones.sizes import Size, preset_of
from backbones.slices.official import Source, load_official
from backbones.slices.stem import PHOTOGRAPH_CHANNELS, ModalityStem
from backbones.slices.swin_stage import PatchExpanding, SwinStage
from errors import InputError


@dataclass(frozen=True)
class _Preset:
    dim: int  # channels of the finest tokens
    depths: tuple[int, ...]
    heads: tuple[int, ...]


PRESETS = {
    "tiny": _Preset(dim=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8)),
    "base": _Preset(dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
}
PATCH = 4  # pixels
STRIDE = PATCH * 2**3  # pixels of a token on the coarsest of four grids
DROP_PATH = 0.2  # of the encoder's last block; 0 for its first, linear between
WINDOWS = (8, 7, 6, 5)  # tokens; 8 at 256 px, 7 at 224 px, the others for sizes that fit neither


def window_for(image_size: int) -> int:
    """Return the largest window, in tokens, that tiles all four grids of an image.

    A grid smaller than the window is one window.

    Args:
        image_size: side of the image, pixels.

    Raises:
        InputError: no window tiles them.
    """
    window = _window(image_size)
    if window is None:
        nearest = sorted(
            (size for size in range(STRIDE, 2 * image_size + 8 * STRIDE, STRIDE) if _window(size)),
            key=lambda size: abs(size - image_size),
        )
        raise InputError(
            f"SwinUnet cannot take images of {image_size} pixels: the side must be a multiple of "
            f"{STRIDE} whose grids of {PATCH} x {PATCH} pixel patches, halved three times, are "
            f"tiled by windows of {WINDOWS[-1]} to {WINDOWS[0]} patches, so set `image_size` (and "
            f"`slice_size` of the data) to {nearest[0]} or {nearest[1]}."
        )
    return window


class SwinUnet(nn.Module):
    """Swin-Unet (Cao et al., https://arxiv.org/abs/2105.05537, section 3).

    `forward(image)` is `head(features(image))`: (B, modalities, S, S) to logits
    (B, regions, S, S). A 1x1 convolution turns the modalities into the three channels of the
    pretrained encoder; three modalities enter as they are.

    Args:
        modalities: channels of the image.
        regions: channels of the logits.
        size: `base` is the paper's (41.39 million parameters at 256 px); `tiny` is for a
            processor.
        image_size: side of the image, pixels: 256 (windows of 8 patches), 224 (of 7), or another
            multiple of 32 that windows tile.
        depths: blocks on each grid, fine to coarse, the same in the decoder; unset: 2, 2, 6, 2
            for `base`, as in Swin-T (2, 2, 2, 2 makes 27.18 million), 2, 2, 2, 2 for `tiny`.

    Raises:
        InputError: unknown size; an image size or depths that do not fit; an image of another
            shape.
    """

    def __init__(
        self,
        modalities: int,
        regions: int,
        size: Size = "base",
        image_size: int = 256,
        depths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        preset = preset_of("SwinUnet", PRESETS, size)
        depths = tuple(preset.depths if depths is None else depths)
        if len(depths) != len(preset.heads) or any(depth < 1 for depth in depths):
            raise InputError(
                f"SwinUnet got depths {list(depths)}: set `depths` to {len(preset.heads)} positive "
                f"numbers of blocks, fine to coarse, such as {list(preset.depths)}."
            )
        window = window_for(image_size)
        dims = [preset.dim * 2**level for level in range(len(depths))]
        rates = _rates(depths)

        def stage(level: int) -> SwinStage:
            side = image_size // PATCH // 2**level
            return SwinStage(dims[level], preset.heads[level], side, window, rates[level])

        self.size = size
        self.stem = ModalityStem(f"SwinUnet of size {size}", modalities, image_size)
        self.patch_embed = PatchEmbed(PATCH, PHOTOGRAPH_CHANNELS, preset.dim, spatial_dims=2)
        self.encoder = nn.ModuleList(stage(level) for level in range(len(dims)))
        self.merges = nn.ModuleList(PatchMerging(dim, spatial_dims=2) for dim in dims[:-1])
        self.norm = nn.LayerNorm(dims[-1])
        # Fine to coarse, like the encoder; the forward pass walks them backwards.
        self.expands = nn.ModuleList(PatchExpanding(2 * dim, dim, scale=2) for dim in dims[:-1])
        self.skips = nn.ModuleList(nn.Linear(2 * dim, dim) for dim in dims[:-1])
        self.decoder = nn.ModuleList(stage(level) for level in range(len(dims) - 1))
        self.norm_up = nn.LayerNorm(preset.dim)
        self.final_expand = PatchExpanding(preset.dim, preset.dim, scale=PATCH)
        self.feature_channels: int = preset.dim
        self.output = nn.Conv2d(preset.dim, regions, kernel_size=1, bias=False)
        self.apply(_initialise)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, feature_channels, S, S)."""
        tokens = self.patch_embed(self.stem(image)).permute(0, 2, 3, 1)  # (B, S/4, S/4, dim)
        skips = []
        for stage, merge in zip(self.encoder, [*self.merges, self.norm], strict=True):
            skips.append(tokens)  # before the stage's blocks, as in the authors' code
            tokens = merge(stage(tokens))
        for level in reversed(range(len(self.decoder))):
            tokens = self.expands[level](tokens)
            tokens = self.skips[level](torch.cat([tokens, skips[level]], dim=-1))
            tokens = self.decoder[level](tokens)
        return self.final_expand(self.norm_up(tokens)).permute(0, 3, 1, 2)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, regions, S, S) of a feature map."""
        return self.output(features)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, regions, S, S) of an image."""
        return self.head(self.features(image))

    def load_pretrained(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Load the published `swin_tiny_patch4_window7_224.pth`, by its own names.

        The encoder takes all of it, the decoder's blocks the encoder's of the same grid, as the
        authors do. Tables of relative positions are resized to the window. Patch expanding, skips,
        head and the 1x1 convolution in front keep their values.

        Args:
            state: the file's state dict, which is under its key `model`.

        Returns:
            The expected names that the file lacks.

        Raises:
            InputError: not that file; nothing is changed.
        """
        sources = {
            f"{layer}.{kind}": Source((f"{layer}.{kind}",))
            for layer in ("patch_embed.proj", "patch_embed.norm", "norm")
            for kind in ("weight", "bias")
        }
        for level, merge in enumerate(self.merges):
            for name, _ in merge.named_parameters():
                sources[f"merges.{level}.{name}"] = Source((f"layers.{level}.downsample.{name}",))
        for half in ("encoder", "decoder"):
            stages: nn.ModuleList = getattr(self, half)
            for level, stage in enumerate(stages):
                for name, weight in stage.named_parameters():
                    official = name.replace("mlp.linear", "mlp.fc")
                    sources[f"{half}.{level}.{name}"] = (
                        _table_source(f"layers.{level}.{official}", math.isqrt(len(weight)))
                        if name.endswith("relative_position_bias_table")
                        else Source((f"layers.{level}.{official}",))
                    )
        file = "swin_tiny_patch4_window7_224.pth, made for `size: base`"
        return load_official(self, sources, state, file=file)


def _window(image_size: int) -> int | None:
    if image_size < STRIDE or image_size % STRIDE:
        return None
    sides = [image_size // PATCH // 2**level for level in range(4)]
    tiling = (
        window for window in WINDOWS if all(side < window or side % window == 0 for side in sides)
    )
    return next(tiling, None)


def _rates(depths: Sequence[int]) -> list[list[float]]:
    """Return the drop path rate of every block: from 0 to DROP_PATH along the encoder."""
    last = sum(depths) - 1
    starts = [sum(depths[:level]) for level in range(len(depths))]
    return [
        [DROP_PATH * (start + index) / last for index in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _table_source(official: str, side: int) -> Source:
    """Return the source of a (side^2, heads) table of relative positions, resized if needed."""

    def resized(published: torch.Tensor) -> torch.Tensor:
        published_side = math.isqrt(published.shape[0])
        table = published.unflatten(0, (published_side, published_side)).permute(2, 0, 1)
        if published_side != side:  # bicubic, as the Swin authors resize theirs
            table = functional.interpolate(table[None].float(), [side] * 2, mode="bicubic")[0]
        return table.flatten(1).t()

    return Source((official,), resized)
