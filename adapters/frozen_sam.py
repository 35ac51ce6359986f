"""A frozen SAM whose mask decoder is trained, and the two baselines built on it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from backbones.sam.bases import build_encoder
from backbones.sam.decoder import SamMaskDecoder, SamPrompt
from backbones.sam.intensity import to_colours, to_range
from backbones.sam.variants import variant_of
from datamodules.layouts.case_files import MODALITIES
from errors import InputError

# Parts of the network by the prefix of their weights in SAM's own checkpoints.
PARTS = {"image_encoder.": "encoder", "prompt_encoder.": "prompt", "mask_decoder.": "decoder"}


class FrozenSam(nn.Module, ABC):
    """SAM (Kirillov et al., https://arxiv.org/abs/2304.02643) that segments the regions of slices.

    Image encoder and prompt encoder are frozen and stay in eval mode; the mask decoder, cut to one
    mask a region and given no prompts, is trained. (B, 4, S, S) to logits (B, R, S, S).

    A subclass prepares the slices by `prepare`, makes three colours of them, and encodes these
    with `paint`, so that every base sees the grey values that it was trained on.

    Args:
        variant: `mobile_sam`, `lite_medsam`, `vit_b`, `vit_l`, `vit_h` or `medsam_vit_b`.
        image_size: side of a slice, pixels, a multiple of the variant's stride (4 for
            `lite_medsam`, else 16).
        regions: regions that are segmented.

    Raises:
        InputError: unknown variant; a size that it cannot take; an image of the wrong shape.
    """

    fixed_input: bool = False
    """Whether `embed` depends on no trained weight, so that its result can be kept."""
    frozen_parts: tuple[str, ...] = ("encoder", "prompt")
    """Names of the parts that are not trained."""

    def __init__(self, variant: str = "vit_b", image_size: int = 256, regions: int = 1) -> None:
        super().__init__()
        self.image_size = image_size
        self.intensity = variant_of(variant).intensity
        self.encoder = build_encoder(variant, image_size)
        self.prompt = SamPrompt(image_size, self.encoder.stride)
        self.decoder = SamMaskDecoder(regions)
        for name in self.frozen_parts:
            self.get_submodule(name).requires_grad_(False)
        self.train()

    @abstractmethod
    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, 256, h, w) of four modalities (B, 4, S, S)."""

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """Return four modalities (B, 4, S, S) of z-scores in the base's range of grey values."""
        self.check_image(image)
        return to_range(image, self.intensity)

    def paint(self, colours: torch.Tensor) -> torch.Tensor:
        """Return three colours (B, 3, S, S) as the base's encoder takes them."""
        return to_colours(colours, self.intensity)

    def colour_weights(self) -> list[nn.Parameter]:
        """Return the trained weights that make colours of modalities, if there are any."""
        colours: nn.Module | None = getattr(self, "colours", None)
        return list(colours.parameters()) if colours is not None else []

    def decode(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, R, S, S) of an embedding (B, 256, h, w)."""
        logits = self.decoder(*self.prompt(embedding))  # (B, R, 4h, 4w)
        side = self.image_size
        return functional.interpolate(
            logits.float(), size=(side, side), mode="bilinear", align_corners=False
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, R, S, S) of four modalities (B, 4, S, S)."""
        return self.decode(self.embed(image))

    def train(self, mode: bool = True) -> "FrozenSam":
        """Set the mode of the trained parts; the frozen ones stay in eval mode."""
        super().train(mode)
        for name in self.frozen_parts:
            self.get_submodule(name).eval()
        return self

    def load_base(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load SAM's weights in the form that `fit_state_dict` gives them.

        Parts that the state does not hold, decoder or prompt encoder, keep their weights.
        """
        for prefix, part in PARTS.items():
            own = {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }
            if own or part == "encoder":
                self.get_submodule(part).load_state_dict(own)

    def frozen_state(self) -> dict[str, torch.Tensor]:
        """Return the weights that training never changes, by their names in this network."""
        return {
            name: value for name, value in self.state_dict().items() if not self._is_trained(name)
        }

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters there are in `all` and how many are `trained`.

        As published: the decoder's head for a mask's quality, which has no gradient here, counts
        as trained, and the whole prompt encoder belongs to all.
        """
        sizes = {name: weight.numel() for name, weight in self.named_parameters()}
        trained = sum(size for name, size in sizes.items() if self._is_trained(name))
        return {"all": sum(sizes.values()), "trained": trained}

    def _is_trained(self, name: str) -> bool:
        """Whether a weight of this name is trained."""
        return name.partition(".")[0] not in self.frozen_parts

    def check_image(self, image: torch.Tensor) -> None:
        """Check that an image is (B, 4, S, S).

        Raises:
            InputError: another shape.
        """
        side, channels = self.image_size, len(MODALITIES)
        if image.ndim != 4 or tuple(image.shape[1:]) != (channels, side, side):
            raise InputError(
                f"{type(self).__name__} got an image of shape {tuple(image.shape)} where (batch, "
                f"{channels}, {side}, {side}) was expected: set `image_size` to the side of your "
                "slices."
            )


class SingleModalitySam(FrozenSam):
    """SAM on one modality, shown as all three colours; only the decoder is trained.

    Args:
        variant: as for `FrozenSam`.
        image_size: side of a slice, pixels, a multiple of the variant's stride.
        regions: regions that are segmented.
        modality: `t1`, `t1ce`, `t2` or `flair`.

    Raises:
        InputError: unknown variant or modality; a size that the variant cannot take.
    """

    fixed_input = True

    def __init__(
        self,
        variant: str = "vit_b",
        image_size: int = 256,
        regions: int = 1,
        modality: str = "t2",
    ) -> None:
        super().__init__(variant, image_size, regions)
        self.modality = modality
        self.channel = channels_of([modality])[0]

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, 256, h, w) of one of four modalities (B, 4, S, S)."""
        self.check_image(image)
        with torch.no_grad():
            grey = to_range(image[:, self.channel, None], self.intensity)
            return self.encoder(self.paint(grey.expand(-1, 3, -1, -1)))


class EarlyFusionSam(FrozenSam):
    """SAM behind a 1x1 convolution from four modalities to three colours, trained with the decoder.

    Args:
        variant: as for `FrozenSam`.
        image_size: side of a slice, pixels, a multiple of the variant's stride.
        regions: regions that are segmented.

    Raises:
        InputError: unknown variant; a size that it cannot take.
    """

    def __init__(self, variant: str = "vit_b", image_size: int = 256, regions: int = 1) -> None:
        super().__init__(variant, image_size, regions)
        self.colours = grey_colours(len(MODALITIES))

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, 256, h, w) of four modalities (B, 4, S, S)."""
        return self.encoder(self.paint(self.colours(self.prepare(image))))


def grey_colours(modalities: int) -> nn.Conv2d:
    """Return a 1x1 convolution to three colours that begins as grey, the mean of the modalities.

    Random colours of so few weights hardly move in a short training, and show the base an image
    that is unlike any it knows.

    Args:
        modalities: channels of the input.
    """
    layer = nn.Conv2d(modalities, 3, kernel_size=1)
    nn.init.constant_(layer.weight, 1 / modalities)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def channels_of(modalities: list[str]) -> list[int]:
    """Return the channels of modalities in an image.

    Raises:
        InputError: no such modality.
    """
    for modality in modalities:
        if modality not in MODALITIES:
            raise InputError(
                f"There is no modality {modality!r}: name some of {', '.join(MODALITIES)}."
            )
    return [MODALITIES.index(modality) for modality in modalities]
