"""A pool of earlier generated images, shown to a discriminator beside new ones."""

import torch
from torch import Tensor


class ImagePool:
    """Keep the last generated images; hand back a new one or, half of the time, an older one.

    Shrivastava et al., "Learning from simulated and unsupervised images through adversarial
    training" (2017), section 2.3. Draws come from PyTorch's generator of the processor, which a
    training seeds before every step, so a resumed training draws the same.

    Args:
        size: images kept; 0 hands every image straight back.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """Take images (B, C, *S) in and hand B of them back, without gradients."""
        return torch.stack([self._exchange(image) for image in images.detach()])

    def _exchange(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image.clone())
            return image
        if not self.size or float(torch.rand(())) < 0.5:
            return image
        place = int(torch.randint(self.size, ()))
        older = self.images[place].to(image)
        self.images[place] = image.clone()
        return older
