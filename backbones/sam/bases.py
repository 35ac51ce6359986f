"""The image encoder of a variant."""

from backbones.sam.encoder import SamImageEncoder
from backbones.sam.image_encoder import ImageEncoder
from backbones.sam.tiny_vit import TinyViT
from backbones.sam.variants import TinyViTShape, variant_of


def build_encoder(variant: str, image_size: int) -> ImageEncoder:
    """Return the image encoder of a variant with random weights.

    Args:
        variant: name of the variant.
        image_size: side of the images, pixels.

    Raises:
        InputError: unknown variant, or a size that it cannot take.
    """
    if isinstance(variant_of(variant).shape, TinyViTShape):
        return TinyViT(variant, image_size)
    return SamImageEncoder(variant, image_size)
