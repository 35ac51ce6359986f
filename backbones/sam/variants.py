"""The sizes of SAM's image encoder, and the checks of a requested variant and image size."""

from dataclasses import dataclass

from errors import InputError

PATCH = 16  # pixels a token, each way
WINDOW = 14  # tokens a side of a window
EMBEDDING = 256  # channels of the image embedding


@dataclass(frozen=True)
class SamVariant:
    """Width, depth and attention of one image encoder; blocks not global attend in windows."""

    dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


VARIANTS = {
    # Not Meta's: vit_b at a quarter of its width, for processors and for machines without weights.
    "vit_tiny": SamVariant(dim=192, depth=12, heads=3, global_blocks=(2, 5, 8, 11)),
    "vit_b": SamVariant(dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": SamVariant(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamVariant(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}


def variant_of(name: str) -> SamVariant:
    """Return the variant called `name`.

    Raises:
        InputError: no such variant.
    """
    if name not in VARIANTS:
        raise InputError(
            f"SAM has no variant {name!r}: set `variant` to one of {', '.join(VARIANTS)}."
        )
    return VARIANTS[name]


def grid_of(image_size: int) -> int:
    """Return the tokens a side of a square image of `image_size` pixels.

    Raises:
        InputError: not a positive multiple of 16.
    """
    if image_size < PATCH or image_size % PATCH:
        nearest = max(PATCH, round(image_size / PATCH) * PATCH)
        raise InputError(
            f"SAM cannot take images of {image_size} pixels: the side must be a positive multiple "
            f"of {PATCH}, so set `image_size` to {nearest}, for instance."
        )
    return image_size // PATCH
