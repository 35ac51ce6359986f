"""Deep supervision: output layers on the coarser levels of a decoder, for training alone."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn


class DeeplySupervised(nn.Module):
    """Base of networks whose decoder can be trained at every level but the coarsest.

    As in nnU-Net (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z): a 1x1x1
    convolution a level gives logits on its grid. Without `supervise_deeply` the network has none of
    them, and its weights and their names are those of its peers.
    """

    @property
    @abstractmethod
    def level_channels(self) -> Sequence[int]:
        """Channels of the decoder's maps, coarsest first."""

    @abstractmethod
    def level_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the decoder's maps of an image, coarsest first; the last is `features`."""

    def supervise_deeply(self, out_channels: int) -> None:
        """Add an output layer to every level between the coarsest and the finest.

        Args:
            out_channels: regions.
        """
        between = list(self.level_channels)[-2:0:-1]
        self.deep_heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in between)

    def deep_logits(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return logits of every supervised level, finest first, each (B, R, D/2^i, H/2^i, W/2^i).

        The first are those of `forward`.
        """
        *coarser, finest = self.level_maps(image)
        heads = getattr(self, "deep_heads", [])
        pairs = zip(heads, reversed(coarser), strict=False)  # the coarsest has no head
        return [self.head(finest), *(head(feature_map) for head, feature_map in pairs)]

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, feature_channels, D, H, W), input of the last layer."""
        return self.level_maps(image)[-1]

    @abstractmethod
    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of an image."""
        return self.head(self.features(image))
