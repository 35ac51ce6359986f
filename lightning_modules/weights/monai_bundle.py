"""SegResNet of a MONAI bundle such as `brats_mri_segmentation` of MONAI's model zoo.

Its documentation gives the order of the channels (T1c, T1, T2, FLAIR), that of the outputs (TC, WT,
ET), the spacing of 1 mm, z-scores over the non-zero voxels of each modality, and flips along every
axis in training, by which the direction of a file's axes does not matter. A bundle's own
`configs/metadata.json` and `configs/inference.json` are read where they are beside the weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from backbones.segresnet import PRESETS, SegResNet
from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import REGIONS
from datamodules.layouts.decathlon import class_of
from datamodules.layouts.description_files import Number, validated
from errors import InputError
from files import read_object
from lightning_modules.weights.foreign import INSTEAD, ForeignNetwork, modality_channels
from lightning_modules.weights.pretrained import read_pretrained

CHANNELS = {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"}
OUTPUTS = {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}
SPACING = 1.0  # mm
FIRST, LAST = "convInit.conv.weight", "conv_final.2.conv.weight"
SIZES: tuple[Literal["base", "tiny"], ...] = ("base", "tiny")
# Transforms before the network that change neither grid nor intensities of a prepared patient.
HARMLESS = {
    *("LoadImaged", "EnsureChannelFirstd", "AddChanneld", "AsChannelFirstd", "EnsureTyped"),
    *("ToTensord", "ToDeviced", "CropForegroundd", "SpatialPadd", "DivisiblePadd"),
}


class _Names(BaseModel):
    channel_def: dict[Number, str]


class _Format(BaseModel):
    inputs: dict[str, _Names]
    outputs: dict[str, _Names]


class _Metadata(BaseModel):
    network_data_format: _Format


class _Steps(BaseModel):
    transforms: list[dict[str, Any]]


class _Window(BaseModel):
    roi_size: Any = None


class _Inference(BaseModel):
    preprocessing: _Steps
    network_def: dict[str, Any] | str | None = None
    inferer: _Window | str | None = None


def weights_of(path: Path) -> Path:
    """Return the file of weights of a bundle.

    Args:
        path: its folder, or the file itself.

    Raises:
        InputError: when the folder has none.
    """
    if path.is_file():
        return path
    found = next((f for f in (path / "models/model.pt", path / "model.pt") if f.is_file()), None)
    if found is None:
        raise InputError(
            f"The MONAI bundle {path} holds no models/model.pt: download the bundle with its "
            "weights (`python -m monai.bundle download brats_mri_segmentation`), or give the file."
        )
    return found


def files_of(path: Path) -> list[Path]:
    """Return the files that a bundle is read from, its weights first."""
    weights = weights_of(path)
    root = weights.parent.parent if weights.parent.name == "models" else weights.parent
    configs = (root / "configs" / name for name in ("metadata.json", "inference.json"))
    return [weights, *(file for file in configs if file.is_file())]


def read_bundle(path: Path) -> ForeignNetwork:
    """Read the SegResNet of a bundle.

    Args:
        path: the bundle's folder, or its file of weights.

    Raises:
        InputError: when it is no such network, or of other channels, outputs or preparation.
    """
    weights, *configs = files_of(path)
    known = {file.name: file for file in configs}
    state = read_pretrained(weights)
    _check_channels(weights, state)
    size = _size_of(weights, state)
    inputs, outputs, notes = _orders(weights, known.get("metadata.json"))
    spacing, patch_size = SPACING, None
    if "inference.json" in known:
        spacing, patch_size = _preparation(known["inference.json"], size)
    bias = LAST.replace("weight", "bias")
    state[FIRST] = state[FIRST][:, inputs].contiguous()
    state[LAST], state[bias] = (state[name][outputs].contiguous() for name in (LAST, bias))
    folder = weights.resolve().parent
    return ForeignNetwork(
        name=f"MONAI bundle {(folder.parent if folder.name == 'models' else folder).name}",
        network={"class_path": "backbones.SegResNet"},
        size=size,
        state_dict=state,
        spacing=spacing,
        normalisation="nonzero",
        patch_size=patch_size,
        notes=notes,
    )


def _check_channels(weights: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse another network, and another number of channels or outputs."""
    if FIRST not in state or LAST not in state:
        raise InputError(
            f"{weights} holds another network than MONAI's SegResNet (no {FIRST} among "
            f"{len(state)} tensors): {INSTEAD}."
        )
    for name, axis, wanted in ((FIRST, 1, MODALITIES), (LAST, 0, REGIONS)):
        shape = state[name].shape
        if len(shape) != 5:
            raise InputError(f"{weights} holds a network that is not of 3D images: {INSTEAD}.")
        if shape[axis] != len(wanted):
            raise InputError(
                f"The network in {weights} {'takes' if axis else 'gives'} {shape[axis]} channels, "
                f"expected {len(wanted)}, {', '.join(wanted)}: {INSTEAD}."
            )


def _size_of(weights: Path, state: Mapping[str, Tensor]) -> Literal["base", "tiny"]:
    """Return the size of our SegResNet that has the same weights."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    difference = ""
    for size in SIZES:
        with torch.device("meta"):
            ours = SegResNet(len(MODALITIES), len(REGIONS), size).state_dict()
        wanted = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        if shapes == wanted:
            return size
        if not difference:
            name = next(n for n in {**wanted, **shapes} if wanted.get(n) != shapes.get(n))
            difference = f"{name} is {_shape(shapes.get(name))}, not {_shape(wanted.get(name))}"
    raise InputError(
        f"{weights} holds a SegResNet of other layers than MONAI's BraTS bundle ({difference}): "
        f"{INSTEAD}."
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape)) or "one number"


def _orders(weights: Path, metadata: Path | None) -> tuple[list[int], list[int], list[str]]:
    """Return the bundle's channel of every modality, its output of every region, and notes."""
    inputs, outputs, notes, where = CHANNELS, OUTPUTS, [], weights
    if metadata is None:
        notes = [
            f"{weights} has no configs/metadata.json: its channels are read as those of MONAI's "
            f"BraTS bundle, {', '.join(CHANNELS.values())}, and its outputs as TC, WT, ET"
        ]
    else:
        needs = "the names of the channels (network_data_format, inputs and outputs, channel_def)"
        stated = validated(_Metadata, read_object(metadata), metadata, needs).network_data_format
        where = metadata
        inputs, outputs = (
            {number: name for one in part.values() for number, name in one.channel_def.items()}
            for part in (stated.inputs, stated.outputs)
        )
    channels = modality_channels(inputs, where)
    meanings = [class_of(outputs[number]) for number in sorted(outputs, key=int)]
    order = ["WT", "TC", "enhancing"]
    if sorted(meanings) != sorted(order) or sorted(map(int, outputs)) != [0, 1, 2]:
        raise InputError(
            f"{where} names the outputs {', '.join(outputs.values())}, expected whole tumor, "
            f"tumor core and enhancing tumor, numbered from 0: {INSTEAD}."
        )
    return channels, [meanings.index(one) for one in order], notes


def _preparation(file: Path, size: Literal["base", "tiny"]) -> tuple[float, tuple[int, ...] | None]:
    """Return spacing and window of a bundle's inference; refuse another preparation than ours."""
    stated = validated(_Inference, read_object(file), file, "its preprocessing as transforms")
    _check_layers(file, stated.network_def, size)
    spacing, normalised = SPACING, False
    for one in stated.preprocessing.transforms:
        kind = str(one.get("_target_")).rpartition(".")[2]
        if kind == "NormalizeIntensityd" and one.get("nonzero") and one.get("channel_wise"):
            normalised = True
        elif kind == "Spacingd":
            spacing = _isotropic(one.get("pixdim"), file)
        elif kind not in HARMLESS and (kind, one.get("axcodes")) != ("Orientationd", "RAS"):
            shown = {key: value for key, value in one.items() if key not in ("_target_", "keys")}
            raise InputError(
                f"{file} prepares images by {kind} {shown}, expected z-scores by "
                "NormalizeIntensityd with nonzero and channel_wise, and no other change: "
                f"{INSTEAD}."
            )
    if not normalised:
        raise InputError(
            f"{file} does not normalise its images by NormalizeIntensityd with nonzero and "
            f"channel_wise: {INSTEAD}."
        )
    window = stated.inferer.roi_size if isinstance(stated.inferer, _Window) else None
    whole = isinstance(window, list) and len(window) == 3 and all(type(n) is int for n in window)
    return spacing, tuple(window) if isinstance(window, list) and whole else None


def _isotropic(edges: Any, file: Path) -> float:
    listed = edges if isinstance(edges, list) else [edges]
    if not all(isinstance(one, int | float) for one in listed) or len(set(listed)) != 1:
        raise InputError(
            f"{file} resamples to {edges} mm, expected one edge for all axes: {INSTEAD}."
        )
    return float(listed[0])


def _check_layers(file: Path, described: Any, size: Literal["base", "tiny"]) -> None:
    """Refuse options of the network that its weights do not show."""
    if not isinstance(described, dict):
        return
    groups = ["GROUP", {"num_groups": PRESETS[size].filters // 2}]
    norms = (None, groups) if PRESETS[size].norm == "group" else ("batch", "BATCH")
    allowed: dict[str, tuple[Any, ...]] = {
        "_target_": ("monai.networks.nets.SegResNet", "SegResNet"),
        "act": (None, ["RELU", {"inplace": True}], "relu", "RELU"),
        "norm": norms,
        "upsample_mode": (None, "nontrainable"),
    }
    for name, values in allowed.items():
        if described.get(name) not in values:
            raise InputError(
                f"{file} has a network_def with {name} {described.get(name)}, expected "
                f"{values[-1]}: {INSTEAD}."
            )
