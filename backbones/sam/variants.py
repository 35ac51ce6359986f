"""The variants of SAM's image encoder, and the checks of a requested variant and image size."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from errors import InputError

PATCH = 16  # pixels a token of a plain vision transformer, each way
WINDOW = 14  # tokens a side of its windows
EMBEDDING = 256  # channels of the image embedding

RANDOM_BASE = "RANDOM WEIGHTS, never trained on anything: scores do not represent SAM"
UNKNOWN_BASE = ", which is no published file known here"  # behind the origin of weights

Intensity = Literal["z-score", "unit", "photograph"]


@dataclass(frozen=True)
class ViTShape:
    """Width, depth and attention of a plain encoder; blocks not global attend in windows.

    Args:
        dim: channels of a token.
        depth: number of blocks.
        heads: heads of the attention.
        global_blocks: numbers of the blocks that attend to the whole grid.
    """

    dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]

    @property
    def stride(self) -> int:
        """Pixels between neighbouring positions of the embedding."""
        return PATCH

    @property
    def fits(self) -> int:
        """Sides that are multiples of it need no padding of windows, pixels."""
        return PATCH  # the padding is never computed

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the tokens after every attention block."""
        return (self.dim,) * self.depth


@dataclass(frozen=True)
class TinyViTShape:
    """A TinyViT encoder; all that differs between the published ones is the stem.

    Args:
        stem_kernel: side of the two convolutions of the stem, pixels.
        stem_stride: their stride.
        dims: channels of the four stages, the first of which is convolutional.
        depths: number of their blocks.
        heads: heads of their attention.
        windows: tokens a side of their windows.
        strides: strides of the downsampling before the second, third and fourth stage.
    """

    stem_kernel: int
    stem_stride: int
    dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    strides: tuple[int, ...] = (2, 2, 1)

    @property
    def stride(self) -> int:
        """Pixels between neighbouring positions of the embedding."""
        stride = self.stem_stride**2
        for factor in self.strides:
            stride *= factor
        return stride

    @property
    def fits(self) -> int:
        """Sides that are multiples of it need no padding of windows, pixels."""
        return self.stride * max(self.windows)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the tokens after every attention block."""
        stages = zip(self.dims[1:], self.depths[1:], strict=True)
        return tuple(dim for dim, depth in stages for _ in range(depth))


@dataclass(frozen=True)
class Variant:
    """A frozen base: its encoder and the images that it was trained on.

    Args:
        shape: its image encoder.
        intensity: the range of its images: `z-score`, as the slices are; `unit`, each modality of
            a slice from 0 to 1; `photograph`, the same by mean and deviation of SAM's photographs.
        remark: what readers of scores with its weights need to know, or nothing.
    """

    shape: ViTShape | TinyViTShape
    intensity: Intensity = "z-score"
    remark: str = ""


_VIT_B = ViTShape(dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11))
VARIANTS = {
    "mobile_sam": Variant(TinyViTShape(stem_kernel=3, stem_stride=2), "photograph"),
    "lite_medsam": Variant(
        TinyViTShape(stem_kernel=1, stem_stride=1),
        "unit",
        "LiteMedSAM was trained on public medical images, probably BraTS among them, so its scores "
        "on BraTS may be contaminated",
    ),
    "vit_b": Variant(_VIT_B),
    "vit_l": Variant(ViTShape(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))),
    "vit_h": Variant(ViTShape(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))),
    "medsam_vit_b": Variant(
        _VIT_B,
        "unit",
        "MedSAM was trained on public medical images, probably BraTS among them, so its scores on "
        "BraTS may be contaminated",
    ),
}


def variant_of(name: str) -> Variant:
    """Return the variant called `name`.

    Raises:
        InputError: no such variant.
    """
    if name not in VARIANTS:
        raise InputError(
            f"SAM has no variant {name!r}: set `variant` to one of {', '.join(VARIANTS)}."
        )
    return VARIANTS[name]


def caveats_in(remarks: Iterable[str]) -> list[str]:
    """Return those of a run's remarks without which scores on its frozen base mislead."""
    known = {variant.remark for variant in VARIANTS.values() if variant.remark}
    return [
        remark
        for remark in remarks
        if remark in known or remark.endswith((RANDOM_BASE, UNKNOWN_BASE))
    ]


def grid_of(image_size: int, stride: int = PATCH) -> int:
    """Return the positions a side of the embedding of a square image of `image_size` pixels.

    Args:
        image_size: side of the image, pixels.
        stride: pixels between neighbouring positions.

    Raises:
        InputError: not a positive multiple of the stride.
    """
    if image_size < stride or image_size % stride:
        nearest = max(stride, round(image_size / stride) * stride)
        raise InputError(
            f"SAM cannot take images of {image_size} pixels: the side must be a positive multiple "
            f"of {stride}, so set `image_size` to {nearest}, for instance."
        )
    return image_size // stride


def padding_remark(variant: str, image_size: int) -> str:
    """Return a remark on windows that are padded at this size, or nothing."""
    fits = variant_of(variant).shape.fits
    if image_size % fits == 0:
        return ""
    best = max(fits, round(image_size / fits) * fits)
    return (
        f"the windows of {variant} are padded at {image_size} pixels: {best} pixels, or any "
        f"multiple of {fits}, need no padding"
    )
