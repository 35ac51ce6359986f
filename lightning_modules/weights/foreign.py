"""Networks that other projects trained, as checkpoints of this one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import REGIONS
from datamodules.layouts.decathlon import channel_numbers
from errors import InputError
from lightning_modules.weights.checkpoints import KEY
from outputs import some

INSTEAD = (
    "the network cannot be used here, but `lightning evaluate --predictions DIR --references DIR` "
    "scores masks that it predicted"
)


def doubt(names: Sequence[str]) -> str:
    """Return a remark on scores of networks of which the training patients are not known.

    Args:
        names: of the networks, or of systems that are built upon them.
    """
    return f"may have seen the test patients, as its training patients are not known: {some(names)}"


def modality_channels(named: Mapping[str, str], where: Path) -> list[int]:
    """Return the input channel of every modality.

    Args:
        named: name of each channel, by its number as text.
        where: the file that names them, for messages.

    Raises:
        InputError: when they are not the four modalities, each once.
    """
    try:
        numbers = channel_numbers(named, where)
    except InputError:
        numbers = {}  # advice to rename files' channels does not fit a trained network
    if sorted(map(int, named)) != list(range(len(MODALITIES))) or not numbers:
        raise InputError(
            f"{where} names the channels {', '.join(named.values()) or 'not at all'}, expected "
            f"{', '.join(MODALITIES)}, each once, numbered from 0: {INSTEAD}."
        )
    return [numbers[modality] for modality in MODALITIES]


@dataclass(frozen=True)
class ForeignNetwork:
    """A network that another project trained, its channels in the order of this project.

    Args:
        name: name in tables and messages.
        network: class path and arguments of the network.
        size: named size of the network; of one without sizes any.
        state_dict: its weights.
        spacing: voxel edge in mm that it was trained at.
        normalisation: z-scores that it was trained on, a kind of `data.normalisation`.
        patch_size: voxels of its windows along R, A and S; None: not stated.
        notes: sentences for the user.
    """

    name: str
    network: Mapping[str, Any]
    size: Literal["tiny", "base"]
    state_dict: Mapping[str, Tensor]
    spacing: float
    normalisation: Literal["brain", "nonzero"]
    patch_size: Sequence[int] | None
    notes: Sequence[str] = ()

    def to_checkpoint(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of a checkpoint of stage 1 with this network.

        Args:
            card: further entries of its card.
        """
        loss = {"class_path": "monai.losses.DiceLoss", "init_args": {"sigmoid": True}}
        arguments = {"network": dict(self.network), "size": self.size, "loss": loss}
        own = {
            "model": {"class_path": "lightning_modules.BackboneModule", "init_args": arguments},
            "modalities": list(MODALITIES),
            "regions": list(REGIONS),
            "origin": self.name,
            "foreign": {
                "name": self.name,
                "normalisation": self.normalisation,
                "notes": list(self.notes),
            },
            "data": {"spacing": self.spacing},
            "patch_size": list(self.patch_size or ()),
            "synthetic": False,
        }
        weights = {f"network.{name}": tensor for name, tensor in self.state_dict.items()}
        return {KEY: {**own, **card}, "state_dict": weights}
