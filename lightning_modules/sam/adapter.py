"""Training of a frozen SAM's adapters, input convolutions and decoder."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbones.sam.state import fit_state_dict
from errors import InputError
from lightning_modules.base import TRAINED_WEIGHTS
from lightning_modules.contracts.protocols import TrainingSlices
from lightning_modules.sam.embeddings import EmbeddingStore, numerics_of
from lightning_modules.slice_segmentation import SliceModule
from lightning_modules.weights.checkpoints import KEY, read_checkpoint, set_arguments
from lightning_modules.weights.pretrained import official_sam, read_pretrained

SamFactory = Callable[[str, int, int], nn.Module]
VARIANT_OF_SIZE = {"tiny": "vit_tiny", "base": "vit_b"}
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
        size: tiny is a small encoder of the same code for a CPU, base the paper's ViT-B.
        variant: vit_tiny, vit_b, vit_l or vit_h; null: by the size.
        weights: the frozen base's: an official checkpoint file; ``official``, downloaded once;
            a pretraining experiment or its checkpoint (vit_tiny); ``random``; null: official
            where there is one, else random.
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
        variant: Literal["vit_tiny", "vit_b", "vit_l", "vit_h"] | None = None,
        weights: str | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.variant = variant or VARIANT_OF_SIZE[size]
        self.network: Any = network(self.variant, self.image_size, len(self.regions))
        self.weights = _absolute(
            weights or ("random" if self.variant == "vit_tiny" else "official")
        )
        self.origin = self._load_base(network, self.weights)
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
        """Return the variant and origin of the base, and whether its embeddings are stored."""
        remarks = [f"frozen base {self.variant}: {self.origin}"]
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

    def _load_base(self, network: SamFactory, weights: str) -> str:
        """Load the frozen base; return its origin in words."""
        if weights == "official":
            if self.variant == "vit_tiny":
                raise InputError(
                    "model.weights is official, but vit_tiny was never published: set "
                    "model.variant vit_b, or model.weights experiments/sam_tiny_pretrain.yaml."
                )
            weights = str(official_sam(self.variant))
        if weights.endswith((".yaml", ".yml")):
            raise InputError(
                f"The base {weights} is an experiment that is not trained yet: only `lightning "
                "fit` trains upstream stages; elsewhere give its checkpoint file."
            )
        if weights.endswith((".pth", ".pt")):
            self._randomise(network)  # the parts that a file of the encoder alone lacks
            self.network.load_base(
                fit_state_dict(
                    read_pretrained(weights), self.variant, self.image_size, len(self.regions)
                )
            )
            return f"pretrained, {weights}"
        self._randomise(network)
        if weights.endswith(".ckpt"):
            self._take_encoder(weights)
            return f"pretrained without labels, {weights}"
        if weights != "random" and not weights.startswith("{"):
            raise InputError(
                f"model.weights is {weights!r}: expected official, random, an experiment (.yaml), "
                "its checkpoint (.ckpt) or an official file (.pth)."
            )
        return "RANDOM WEIGHTS, never trained on anything: scores do not represent SAM"

    def _randomise(self, network: SamFactory) -> None:
        """Give the base random weights of a fixed seed, so that they can be reproduced."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(BASE_SEED)
            twin: Any = network(self.variant, self.image_size, len(self.regions))
        self._set_frozen(twin.frozen_state())

    def _take_encoder(self, path: str) -> None:
        if not Path(path).is_file():
            raise InputError(
                f"The frozen base {path} is missing, and a checkpoint holds only what was "
                "trained on it: put it back, or name its new place by --model.weights FILE."
            )
        checkpoint = read_checkpoint(path)
        found = (checkpoint[KEY].get("model") or {}).get("init_args", {})
        variant = found.get("variant") or VARIANT_OF_SIZE.get(found.get("size", "tiny"))
        if variant != self.variant or found.get("image_size") != self.image_size:
            raise InputError(
                f"{path} pretrained {variant} at {found.get('image_size')} pixels, model wants "
                f"{self.variant} at {self.image_size}: set model.variant and image_size alike."
            )
        weights = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("encoder.")}
        if not weights:
            raise InputError(
                f"{path} holds no SAM encoder: give a checkpoint of an experiment such as "
                "experiments/sam_tiny_pretrain.yaml."
            )
        self._set_frozen(weights)

    def _set_frozen(self, weights: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict({**self.network.state_dict(), **weights})

    def base_hash(self) -> str:
        """Return the SHA-256 of the frozen tensors, names and values."""
        if self._base_hash is None:  # frozen weights never change
            state = hashlib.sha256()
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
    is_file = weights.endswith((".ckpt", ".pth", ".pt")) and not weights.startswith("{")
    return str(Path(weights).expanduser().resolve()) if is_file else weights
