"""Input layer of networks pretrained on photographs: modalities become three channels."""

import torch
from torch import nn

from errors import InputError

PHOTOGRAPH_CHANNELS = 3


class ModalityStem(nn.Module):
    """1x1 convolution from modalities to the three channels that pretrained weights expect.

    `forward(image)`: (B, modalities, S, S) to (B, 3, S, S). Three modalities enter as they are.

    Args:
        network: name and size used in the error.
        modalities: channels of the image.
        image_size: side of the image, pixels.

    Raises:
        InputError: an image of another shape.
    """

    def __init__(self, network: str, modalities: int, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.modalities = modalities
        self.image_size = image_size
        self.project: nn.Module = (
            nn.Identity()
            if modalities == PHOTOGRAPH_CHANNELS
            else nn.Conv2d(modalities, PHOTOGRAPH_CHANNELS, kernel_size=1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return three channels (B, 3, S, S)."""
        if image.ndim != 4 or image.shape[1:] != (self.modalities, *[self.image_size] * 2):
            side = self.image_size
            raise InputError(
                f"{self.network} got an image of shape {tuple(image.shape)} where (batch, "
                f"{self.modalities}, {side}, {side}) was expected: give it {self.modalities} "
                "modalities, and set `slice_size` of the data and `image_size` of the network to "
                "the same number of pixels."
            )
        return self.project(image)
