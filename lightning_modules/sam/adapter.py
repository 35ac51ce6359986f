"""Training of a frozen SAM's adapters, input convolutions and decoder."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from backbones.sam.state import fit_state_dict
from backbones.sam.variants import RANDOM_BASE, UNKNOWN_BASE, padding_remark, variant_of
from errors import InputError
from lightning_modules.base import TRAINED_WEIGHTS
from lightning_modules.contracts.protocols import TrainingSlices
from lightning_modules.optimisation.output_layer import with_own_rate
from lightning_modules.sam.embeddings import EmbeddingStore, numerics_of
from lightning_modules.slice_segmentation import SliceModule
from lightning_modules.weights.checkpoints import KEY, set_arguments
from lightning_modules.weights.pretrained import read_pretrained
from lightning_modules.weights.published import UNHASHED, published_weights, variant_of_file

SamFactory = Callable[[str, int, int], nn.Module]
VariantName = Literal["mobile_sam", "lite_medsam", "vit_b", "vit_l", "vit_h", "medsam_vit_b"]
VARIANT_OF_SIZE = {"tiny": "mobile_sam", "base": "vit_b"}
PUBLISHED = "published"
BASE_SEED = 0  # of random base weights, which all systems share


class SamAdapterModule(SliceModule):
    """Adapt a frozen Segment Anything model to glioma.

    After Shi et al., "Cross-modality Attention Adapter: a glioma segmentation fine-tuning method
    for SAM", section 2, and the systems of its tables that are based on SAM.

    The checkpoint holds the trained weights and the hash of the frozen base; another base is
    refused. Where the encoder's input never changes (single modality, no augmentation), training
    uses embeddings that are computed once and stored in half precision beside the cache.

    Args:
        network: a class of ``adapters``, built as ``network(variant, image_size, regions)``.
        size: tiny is MobileSAM, for a processor; base the paper's ViT-B.
        variant: mobile_sam, lite_medsam, vit_b, vit_l, vit_h or medsam_vit_b; null: by the size.
        weights: the frozen base's: null or ``published``, the published file of the variant,
            fetched once; the path of such a file; ``random``: random weights, which null means too
            for a network that trains its encoder.
        colour_rate: factor on the learning rate of the convolutions from modalities to colours.
        **training: image_size, regions, loss, optimizer, scheduler, overlap, postprocessing,
            precision.

    Raises:
        InputError: when the weights are absent, altered or of another variant.
    """

    job_type = "adapter"

    def __init__(
        self,
        network: SamFactory,
        size: Literal["tiny", "base"] = "tiny",
        variant: VariantName | None = None,
        weights: str | None = None,
        colour_rate: float = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.variant = variant or VARIANT_OF_SIZE[size]
        self.network: Any = network(self.variant, self.image_size, len(self.regions))
        self.weights = _absolute(weights or (PUBLISHED if self._is_frozen else "random"))
        self.origin = self._load_base(network, self.weights)
        self.colour_rate = colour_rate
        self._check_colour_rate()
        self.store: EmbeddingStore | None = None
        self._base_hash: str | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Map slices (B, 4, H, W) to logits (B, R, H, W)."""
        logits: Tensor = self.network(image)
        return logits

    def parameter_counts(self) -> dict[str, int]:
        """Return the paper's count, in which the IoU head belongs to the trained decoder."""
        counts: dict[str, int] = self.network.parameter_counts()
        return counts

    def remarks(self) -> list[str]:
        """Return origin and caveats of the base, and whether its embeddings are stored."""
        kind = "frozen" if self._is_frozen else "trained"
        remarks = [f"{kind} base {self.variant}: {self.origin}"]
        about_weights = "" if self.weights == "random" else variant_of(self.variant).remark
        known = (about_weights, padding_remark(self.variant, self.image_size))
        remarks += [remark for remark in known if remark]
        if self._stores:
            remarks.append(
                "no slice is augmented, so the encoder's output is computed once a slice and kept "
                "in half precision beside the cache"
            )
        return remarks

    @property
    def _stores(self) -> bool:
        """Whether embeddings are stored: the encoder's input never changes."""
        return bool(self.network.fixed_input) and not self.augmented

    @property
    def _is_frozen(self) -> bool:
        """Whether the image encoder is frozen, as in all networks but one."""
        return "encoder" in self.network.frozen_parts

    def _load_base(self, network: SamFactory, weights: str) -> str:
        """Load the frozen base; return its origin in words."""
        if weights == "random":
            self._randomise(network)
            if not self._is_frozen:
                return "from random weights"
            return RANDOM_BASE
        if not self._is_frozen:
            raise InputError(
                f"model.weights is {weights}, but {type(self.network).__name__} trains its encoder "
                "from random weights: set it to random, or model.network to "
                "adapters.CrossModalitySam for a pretrained base."
            )
        if weights == PUBLISHED:
            weights = str(published_weights(self.variant))
        elif not weights.endswith((".pth", ".pt")):
            raise InputError(
                f"model.weights is {weights!r}, but a frozen base is published, random, or a file "
                "of weights (.pth, .pt): give one of these, or leave it out."
            )
        state = read_pretrained(weights)
        known = variant_of_file(Path(weights))
        if known not in (None, self.variant):
            holds = "has the name of" if Path(weights).name in UNHASHED else "holds"
            raise InputError(
                f"{weights} {holds} the weights of {known}, but model.variant is {self.variant}: "
                f"set it to {known}, or give another file."
            )
        self._randomise(network)  # the parts that a file of the encoder alone lacks
        try:
            fitted = fit_state_dict(state, self.variant, self.image_size, len(self.regions))
        except InputError as error:
            raise InputError(f"model.weights {weights}: {error}") from error
        self.network.load_base(fitted)
        return f"pretrained, {weights}" + ("" if known else UNKNOWN_BASE)

    def _randomise(self, network: SamFactory) -> None:
        """Give the base random weights of a fixed seed, so that they can be reproduced."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(BASE_SEED)
            twin: Any = network(self.variant, self.image_size, len(self.regions))
        self._set_frozen(twin.frozen_state())

    def _set_frozen(self, weights: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict({**self.network.state_dict(), **weights})

    def _check_colour_rate(self) -> None:
        if not 0 < self.colour_rate < math.inf:
            raise InputError(f"model.colour_rate is {self.colour_rate}: expected a factor above 0.")
        if self.colour_rate != 1 and not self.network.colour_weights():
            raise InputError(
                "model.colour_rate acts on convolutions from modalities to colours, which "
                f"{type(self.network).__name__} does not have: leave it out."
            )

    def build_optimizer(self, weights: Iterable[nn.Parameter]) -> Optimizer:
        """Return the configured optimiser, with a rate of its own for the colours."""
        colours = self.network.colour_weights()
        return with_own_rate(super().build_optimizer, weights, colours, self.colour_rate)

    def base_hash(self) -> str:
        """Return the SHA-256 of the frozen base: the range of its images, its tensors by name."""
        if self._base_hash is None:  # frozen weights never change
            state = hashlib.sha256()
            if self.network.intensity != "z-score":  # of it version 0.1 had none
                state.update(self.network.intensity.encode())
            for name, value in sorted(self.network.frozen_state().items()):
                state.update(f"{name}{tuple(value.shape)}".encode())
                state.update(value.detach().cpu().contiguous().numpy().data)
            self._base_hash = state.hexdigest()
        return self._base_hash

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove the frozen base from the checkpoint; keep its hash."""
        super().on_save_checkpoint(checkpoint)
        frozen = {f"network.{name}" for name in self.network.frozen_state()}
        for key in {"state_dict", TRAINED_WEIGHTS} & set(checkpoint):
            kept = {name: v for name, v in checkpoint[key].items() if name not in frozen}
            checkpoint[key] = kept
        card = checkpoint[KEY]
        set_arguments(card, weights=self.weights)
        card["base"] = {
            "variant": self.variant,
            "hash": self.base_hash(),
            "origin": self.origin,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Insert the frozen base if it is the one that the checkpoint was trained on.

        Raises:
            InputError: when it is a different one.
        """
        super().on_load_checkpoint(checkpoint)
        trained_on, present = checkpoint[KEY].get("base") or {}, self.base_hash()
        if trained_on.get("hash") != present:
            raise InputError(
                f"The checkpoint was trained on the frozen base {str(trained_on.get('hash'))[:12]} "
                f"({trained_on.get('variant')}, {trained_on.get('origin')}), this one is "
                f"{present[:12]} ({self.variant}, {self.origin}): give that file as model.weights."
            )
        frozen = {f"network.{n}": value for n, value in self.network.frozen_state().items()}
        for key in {"state_dict", TRAINED_WEIGHTS} & set(checkpoint):
            checkpoint[key] = {**checkpoint[key], **frozen}

    def on_fit_start(self) -> None:
        """Compute and store the embeddings where the encoder's input never changes."""
        data: TrainingSlices | None = getattr(self.trainer, "datamodule", None)
        if data is None or not self._stores:
            return
        slices = data.train_dataloader().dataset.slices
        places = {case.slice_key(index): (case, index) for case, index in slices}
        keys = list(places)

        def images(members: list[int]) -> Tensor:
            chosen = [places[keys[member]] for member in members]
            return torch.cat([case.padded_images(index, index + 1) for case, index in chosen])

        self.store = EmbeddingStore(self._embedding_folder(Path(data.cache_dir)))
        self.store.fill(
            keys,
            lambda members: self.embed(images(members)),
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            progress="embedding slices" if self.trainer.is_global_zero else None,
        )
        self.trainer.strategy.barrier()

    def on_fit_end(self) -> None:
        """Drop the store: ``test`` and ``predict`` encode each slice once."""
        self.store = None

    def compute_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the training loss, from stored embeddings where available."""
        if self.store is None:
            return super().compute_loss(batch)
        decode = self.compiled(self.network.decode)
        logits = decode(self.store.read(batch["slice_key"], self.device))
        return self.region_loss(logits.float(), batch["mask"])

    def selected_probabilities(self, batch: dict[str, Any]) -> Tensor:
        """Return probabilities (N, R, H, W) of the selected slices, from stored embeddings."""
        if self.store is None:
            return super().selected_probabilities(batch)
        selected = batch["selected"][0]
        image = batch["image"][0, selected]
        chosen = zip(batch["slice_key"][0], selected.tolist(), strict=True)
        keys = [key for key, is_selected in chosen if is_selected]
        self.store.fill(keys, lambda members: self.embed(image[members]))
        with self.execution.active():
            logits = self.network.decode(self.store.read(keys, self.device))
        return torch.sigmoid(logits.float())

    def embed(self, image: Tensor) -> Tensor:
        """Return the frozen encoder's embeddings of images, at the precision of this run."""
        with self.execution.active():
            embedding: Tensor = self.network.embed(image.to(self.device).float())
        return embedding

    def _embedding_folder(self, cache_dir: Path) -> Path:
        settings = (self.base_hash(), self.network.modality, *numerics_of(self.execution))
        return (
            cache_dir / "embeddings" / hashlib.sha256("|".join(settings).encode()).hexdigest()[:32]
        )


def _absolute(weights: str) -> str:
    """Return a source of weights, a file by its absolute path."""
    is_file = weights.endswith((".pth", ".pt"))
    return str(Path(weights).expanduser().resolve()) if is_file else weights
