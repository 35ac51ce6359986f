"""One segmentation network, trained from the four modalities: on volumes, or on slices."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from backbones.deep_supervision import DeeplySupervised
from datamodules.layouts.case_files import MODALITIES
from errors import InputError
from lightning_modules.optimisation.output_layer import InitialBias, OutputLayer
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.slice_segmentation import SliceModule
from lightning_modules.weights.checkpoints import KEY, set_arguments
from lightning_modules.weights.pretrained import read_pretrained
from lightning_modules.weights.transfer import Frozen, freeze, take_over

NetworkFactory = Callable[[int, int, str], nn.Module]
SliceNetworkFactory = Callable[[int, int, str, int], nn.Module]


class NetworkModule(SegmentationModule):
    """Base of modules with one network, which may start from given weights.

    Attributes:
        network: the network; a subclass builds it.
        origin: where its initial weights come from, in words; empty: random, as usual.
    """

    job_type = "backbone"
    network: Any  # may also have the methods forward_with_terms and maps
    origin: str

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 4, *S) to logits (B, R, *S)."""
        logits: Tensor = self.network(image)
        return logits

    def remarks(self) -> list[str]:
        """Return the origin of the initial weights."""
        began = [f"training began from {self.origin}"] if self.origin else []
        return [*super().remarks(), *began]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the origin of the weights in the card; their file is not needed again."""
        super().on_save_checkpoint(checkpoint)
        card = checkpoint[KEY]
        card["origin"] = self.origin
        set_arguments(card, weights=None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the origin of the weights from the card."""
        super().on_load_checkpoint(checkpoint)
        self.origin = str(self.card.get("origin", self.origin))


class BackboneModule(NetworkModule):
    """Train one network of ``backbones`` or ``fusion`` to segment WT, TC and ET.

    A network with a method ``forward_with_terms(image)``, returning its logits and further terms of
    the loss by name, is trained on their sum; one with ``maps(image)`` and ``map_channels`` shows
    them in ``predict --maps``.

    Args:
        network: a class built as ``network(4, 3, size)``.
        size: named size of the network, as in timm: tiny for a CPU, base as in the paper.
        weights: an earlier stage, from which weights of the same name are copied: an experiment
            (``fit`` trains it first where needed) or its checkpoint; null: random weights. Of a
            fusion's checkpoint it is the backbone of this network's class. Or a network of another
            project: a MONAI bundle's folder or model.pt, or a folder of results of nnU-Net v2,
            from which ``fit`` takes over size, spacing, normalisation and patch size.
        frozen: the part of the given weights that is not trained: nothing; features, all but the
            output layer; all, which validates the weights as they are.
        output_rate: factor on the learning rate of the last convolution.
        output_bias: bias of the last convolution at the start: prevalence, the logit of each
            region's share of the training patches (Lin et al., arXiv:1708.02002, section 4.1); a
            number for all regions; null: random. With ``weights`` it stays as they bring it.
        deep_supervision: train the coarser levels of the decoder too, where the network offers it,
            each level with half the weight of the finer one.
        trained_on: file of the patients, one id a line, that ``weights`` of another project were
            trained on, if no file ``trained_on.txt`` is beside them; null: unknown.
        **training: loss, optimizer, scheduler, overlap, postprocessing, precision.

    Raises:
        InputError: when the earlier stage is of another size or shares no weight; when random
            weights would be frozen, or the options of the output layer do not fit the network.
    """

    def __init__(
        self,
        network: NetworkFactory,
        size: Literal["tiny", "base"] = "tiny",
        weights: str | None = None,
        frozen: Frozen = "nothing",
        output_rate: float = 1.0,
        output_bias: InitialBias = None,
        deep_supervision: bool = False,
        trained_on: str | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.network = network(len(MODALITIES), len(self.regions), size)
        self.deep_supervision = deep_supervision
        self.is_deep = deep_supervision and isinstance(self.network, DeeplySupervised)
        if self.is_deep:
            self.network.supervise_deeply(len(self.regions))
        self.origin = "" if weights is None else take_over(self.network, weights, size)
        self.output = OutputLayer(self.network, output_rate, output_bias if not weights else None)
        if weights and output_bias is not None:
            self.origin += "; model.output_bias had no effect, the bias is that of the weights"
        if frozen != "nothing":
            if weights is None:
                raise InputError(
                    f"model.frozen is {frozen}, but there are no weights to keep: give "
                    "model.weights, or leave model.frozen out."
                )
            self.origin += f"; {freeze(self.network, frozen)}"
            self.is_deep = False  # its coarser output layers are frozen
        self.frozen = frozen
        self.trained_on = trained_on

    def train(self, mode: bool = True) -> "BackboneModule":
        """Set the mode of what is trained; frozen layers never leave eval mode."""
        super().train(mode)
        if self.frozen != "nothing":
            self.network.eval()
            for layer in self.network.modules():
                if any(weight.requires_grad for weight in layer.parameters(recurse=False)):
                    layer.train(mode)
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the module as one without frozen layers, which the origin names."""
        super().on_save_checkpoint(checkpoint)
        if self.trained_on is not None:
            set_arguments(checkpoint[KEY], trained_on=None)  # its ids are in the card
        if self.frozen != "nothing":
            set_arguments(checkpoint[KEY], frozen="nothing")

    def forward_with_terms(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and the further terms of the loss that the network computes."""
        if not hasattr(self.network, "forward_with_terms"):
            return super().forward_with_terms(image)
        result: tuple[Tensor, dict[str, Tensor]] = self.network.forward_with_terms(image)
        return result

    def remarks(self) -> list[str]:
        """Return the origin of the initial weights, and what had no effect."""
        remarks = super().remarks()
        if self.deep_supervision and not self.is_deep:
            reason = f"{type(self.network).__name__} has one output layer"
            if isinstance(self.network, DeeplySupervised):
                reason = "the coarser output layers are frozen"
            remarks.append(f"deep supervision had no effect, {reason}")
        return remarks

    def compute_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a batch; under deep supervision the weighted mean over the levels."""
        if not self.is_deep:
            return super().compute_loss(batch)
        step = self.compiled(self.network.deep_logits)
        levels = step(self.execution.arrange(batch["image"]))
        weights = [0.5**level for level in range(len(levels))]
        losses = []
        for logits in levels:
            mask = functional.interpolate(batch["mask"], size=logits.shape[2:], mode="nearest")
            losses.append(self.loss(logits.float(), mask))
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        return total / sum(weights)

    def map_channels(self) -> dict[str, tuple[str, ...]]:
        """Return the maps that the network can show, each with the names of its channels."""
        return dict(getattr(self.network, "map_channels", {}))

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the network's maps of a patch (B, 4, *patch), each (B, K, *patch)."""
        found: dict[str, Tensor] = self.network.maps(image)
        return found


class SliceBackboneModule(NetworkModule, SliceModule):
    """Train one network of ``backbones`` on slices of all four modalities.

    Args:
        network: a class of ``backbones``, built as ``network(4, R, size, image_size)``.
        size: named size of the network: tiny for a CPU, base as in its paper.
        weights: file of pretrained weights in the form its authors published; null: random.
        **training: image_size, regions, loss, optimizer, scheduler, overlap, postprocessing,
            precision.
    """

    def __init__(
        self,
        network: SliceNetworkFactory,
        size: Literal["tiny", "base"] = "tiny",
        weights: str | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.network = network(len(MODALITIES), len(self.regions), size, self.image_size)
        self.origin = "random weights"
        if weights is not None:
            absent = self.network.load_pretrained(read_pretrained(weights))
            self.origin = f"{weights}, {len(absent)} tensors are not in it and began random"
