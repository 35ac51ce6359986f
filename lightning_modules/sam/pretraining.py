"""Self-supervised pretraining of a small SAM encoder, which has no official checkpoint."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name its own documentation uses

from backbones.sam.encoder import SamImageEncoder
from backbones.sam.variants import EMBEDDING, PATCH
from datamodules.layouts.case_files import MODALITIES
from errors import InputError
from evaluation.figures.reconstruction import reconstruction_png
from lightning_modules.sam.adapter import VARIANT_OF_SIZE
from lightning_modules.slice_segmentation import SliceModule

COLOURS = 3


class SamPretrainModule(SliceModule):
    """Pretrain an encoder by masked-image reconstruction: it fills in hidden blocks of a slice.

    After Xie et al., "SimMIM: a simple framework for masked image modeling" (2022): blocks of 32
    pixels are hidden, one convolution reads the pixels from the encoder's output, and the loss
    counts hidden pixels only. The three input channels are one modality repeated or a random
    mixture of all four, as in the systems that use the encoder.

    Args:
        size: tiny is vit_tiny, base ViT-B.
        variant: vit_tiny, vit_b, vit_l or vit_h; null: by the size.
        masked: share of the slice that is hidden.
        block: pixels along either side of a hidden block, a multiple of 16.
        loss: unused, as pixels are compared by their absolute difference; accepted so that a
            study's overlays fit every stage.
        **training: image_size, optimizer, scheduler, overlap, precision.
    """

    job_type = "pretrain"
    monitor = "val/loss"
    monitor_mode: Literal["max", "min"] = "min"

    def __init__(
        self,
        size: Literal["tiny", "base"] = "tiny",
        variant: Literal["vit_tiny", "vit_b", "vit_l", "vit_h"] | None = None,
        masked: float = 0.5,
        block: int = 32,
        loss: nn.Module | None = None,
        **training: Any,
    ) -> None:
        super().__init__(loss=nn.L1Loss(), **training)
        if not 0 < masked < 1:
            raise InputError(f"model.masked is {masked}: expected a share between 0 and 1.")
        if block % PATCH or block < PATCH:
            raise InputError(f"model.block is {block} pixels: expected a multiple of {PATCH}.")
        self.masked = masked
        self.block = block
        self.encoder = SamImageEncoder(variant or VARIANT_OF_SIZE[size], self.image_size)
        self.reader = nn.Conv2d(EMBEDDING, COLOURS * PATCH**2, kernel_size=1)
        self.losses: list[Tensor] = []
        self.sample: tuple[Tensor, Tensor, Tensor] | None = None
        self.synthetic = False

    def forward(self, image: Tensor) -> Tensor:
        """Map slices (B, 4, H, W) to the reconstruction (B, 3, H, W) of their mean."""
        return self.reconstruct(image.mean(dim=1, keepdim=True).expand(-1, COLOURS, -1, -1))

    def reconstruct(self, colours: Tensor) -> Tensor:
        """Map slices with hidden blocks (B, 3, H, W) to whole ones."""
        return F.pixel_shuffle(self.reader(self.encoder(colours)), PATCH)

    def hide(self, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
        """Return 1 where a pixel is hidden: (B, 1, H, W)."""
        batch, _, height, width = shape
        grid = (batch, 1, -(-height // self.block), -(-width // self.block))
        drawn = torch.rand(grid, generator=generator) < self.masked
        hidden = drawn.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)
        return hidden[..., :height, :width].float().to(self.device)

    def colour(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Turn modalities (B, 4, H, W) into channels (B, 3, H, W): one of them, or mixtures."""
        batch, modalities = image.shape[0], len(MODALITIES)
        mixture = torch.randn(batch, COLOURS, modalities, generator=generator)
        mixture = mixture / mixture.norm(dim=2, keepdim=True)
        single = torch.randint(modalities, (batch, 1), generator=generator).expand(-1, COLOURS)
        alone = torch.rand(batch, 1, 1, generator=generator) < 0.5
        weights = torch.where(alone, F.one_hot(single, modalities).float(), mixture)
        return torch.einsum("bcm,bmhw->bchw", weights.to(image), image)

    def loss_of(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss over the hidden pixels of a batch of slices (B, 4, H, W)."""
        colours = self.colour(image, generator)
        hidden = self.hide(colours.shape, generator)
        reconstructed = self.compiled(self.reconstruct)(colours * (1 - hidden)).float()
        # the background is easy and most of the image: only hidden brain counts
        counted = (hidden * (colours != 0)).bool()
        if not bool(counted.any()):  # every slice shows a dropped modality
            return 0 * reconstructed.sum()
        loss: Tensor = self.loss(reconstructed[counted], colours[counted])
        if not self.training and self.sample is None:
            fullest = int((colours != 0).flatten(1).sum(dim=1).argmax())
            self.sample = (colours[fullest], hidden[fullest], reconstructed[fullest].detach())
        return loss

    def compute_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the training loss of a batch of slices."""
        return self.loss_of(batch["image"])

    def on_validation_epoch_start(self) -> None:
        """Reset the mean and the sample to draw."""
        self.losses, self.sample = [], None

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # type: ignore[override]
        """Reconstruct one patient's selected slices, with the same hidden blocks every epoch."""
        generator = torch.Generator().manual_seed(batch_idx)
        self.synthetic = batch["case"][0].synthetic
        if not bool(batch["selected"].any()):
            return  # a patient without tumour has no slice to be selected
        with self.execution.active():
            self.losses.append(
                self.loss_of(batch["image"][0, batch["selected"][0]], generator).float()
            )

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss over the patients."""
        self.log("val/loss", torch.stack(self.losses).mean(), sync_dist=True)

    def on_fit_end(self) -> None:
        """Draw a validation slice, the same with hidden blocks, and its reconstruction."""
        rehearsal = bool(getattr(self.trainer, "fast_dev_run", False))  # writes no files
        if self.sample is not None and self.trainer.is_global_zero and not rehearsal:
            colours, hidden, reconstructed = (part.float().cpu().numpy() for part in self.sample)
            folder = Path(self.trainer.default_root_dir) / "overlays"
            reconstruction_png(
                colours,
                hidden,
                reconstructed,
                folder / "reconstruction.png",
                synthetic=self.synthetic,
            )

    def segment(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Refuse to segment: a pretrained encoder has no segmentation head.

        Raises:
            InputError: always.
        """
        raise InputError(
            "Pretraining segments nothing, so it has no test and no predictions: name its "
            "experiment as model.weights of one that does, such as experiments/sam_adapter.yaml."
        )
