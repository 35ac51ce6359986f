"""Results of nnU-Net v2: a folder with plans.json, dataset.json and a folder for each fold.

What nnU-Net stores beside the weights holds numbers of numpy. Opening it with `weights_only=True`
allows these few and no other class, so that no code runs from a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.planned_unet import PlannedUNet
from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import CLASSES, REGIONS
from datamodules.layouts.decathlon import label_convention, read_meaning
from errors import InputError
from files import read_object
from lightning_modules.weights.foreign import INSTEAD, ForeignNetwork, modality_channels
from lightning_modules.weights.nnunet_plans import read_plan
from lightning_modules.weights.torch_file import load_torch_file

PLANS, DATASET, CHECKPOINT = "plans.json", "dataset.json", "checkpoint_final.pth"
SCALAR = np.float64(0).__reduce__()[0]  # what makes a number of numpy from its bytes
NUMBERS: list[Any] = [
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # until 2, since
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "u4", "u8", "?")),
]
EVERY_AXIS = {0, 1, 2}


@dataclass(frozen=True)
class Results:
    """The files of one trained network.

    Args:
        folder: the folder with plans.json and dataset.json.
        checkpoint: the file of weights, in the folder of a fold.
    """

    folder: Path
    checkpoint: Path

    @property
    def files(self) -> list[Path]:
        """All files that the network is read from."""
        return [self.checkpoint, self.folder / PLANS, self.folder / DATASET]


def is_results(path: Path) -> bool:
    """Whether a path looks like results of nnU-Net: the folder, a fold in it, or its checkpoint."""
    if path.is_file():
        return path.suffix == ".pth"
    own = [path / PLANS, path / DATASET, *path.glob("fold_*"), *path.glob("checkpoint_*.pth")]
    return path.name.startswith("fold_") or any(file.exists() for file in own)


def find_results(path: Path) -> Results:
    """Find the files of a network.

    Args:
        path: the folder with plans.json and one fold, or the folder of a fold, or a checkpoint.

    Raises:
        InputError: when one of the files is missing, or there are several folds.
    """
    if path.is_file():
        folder, checkpoint = path.resolve().parent.parent, path
    elif path.name.startswith("fold_") or list(path.glob("checkpoint_*.pth")):
        folder, checkpoint = path.resolve().parent, path / CHECKPOINT
    else:
        folder, checkpoint = path, _only_fold(path) / CHECKPOINT
    for name in (PLANS, DATASET):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no {name}, which nnU-Net v2 writes beside its folds: copy it back "
                "there, as a network cannot be built from its checkpoint alone."
            )
    if not checkpoint.is_file():
        others = sorted(file.name for file in checkpoint.parent.glob("*.pth"))
        advice = f"give one of {', '.join(others)} as a file" if others else "train this fold"
        raise InputError(
            f"{checkpoint.parent} holds no {CHECKPOINT}, which nnU-Net writes at the end of its "
            f"training: {advice}, or give another fold."
        )
    return Results(folder, checkpoint)


def _only_fold(folder: Path) -> Path:
    folds = sorted(one for one in folder.glob("fold_*") if one.is_dir())
    if not folds:
        raise InputError(
            f"{folder} holds no folder of a fold, such as fold_0: give the folder that nnU-Net v2 "
            "names after trainer, plans and configuration."
        )
    if len(folds) > 1:
        named = ", ".join(one.name for one in folds)
        raise InputError(
            f"{folder} holds {len(folds)} folds ({named}), each a network of its own: give one or "
            f"more of them, such as {folds[0]}."
        )
    return folds[0]


def read_results(path: Path) -> ForeignNetwork:
    """Read a network of nnU-Net's results.

    Args:
        path: as `find_results` takes it.

    Raises:
        InputError: when files are missing, damaged or unsafe, or the network or its images are of
            another kind than ours.
    """
    results = find_results(path)
    plans, dataset = (read_object(results.folder / name) for name in (PLANS, DATASET))
    stored = _read_checkpoint(results.checkpoint)
    configuration = stored["init_args"]["configuration"]
    plan = read_plan(plans, configuration, results.folder / PLANS)
    _check_mirrored(results.checkpoint, stored)
    where = results.folder / DATASET
    meaning = read_meaning(dataset, where)
    inputs = modality_channels(meaning.channel_names or meaning.modality or {}, where)
    rows, classes = _outputs(meaning.labels or {}, where)
    arguments = {**plan.network, "classes": classes}
    with torch.device("meta"):
        network = PlannedUNet(len(MODALITIES), len(REGIONS), **arguments)
    state = {
        name.removeprefix("module.").removeprefix("_orig_mod."): _turned(tensor, plan.axes)
        for name, tensor in stored["network_weights"].items()
    }
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")
        raise InputError(
            f"The weights in {results.checkpoint} are not those of the network in "
            f"{results.folder / PLANS} ({reason}): put the plans.json of this training back; "
            f"where its trainer builds other layers, {INSTEAD}."
        ) from error
    weights = dict(network.state_dict())
    first = next(name for name in weights if name.endswith("convs.0.conv.weight"))
    weights[first] = weights[first][:, inputs].contiguous()
    if rows:
        for name in [name for name in weights if name.startswith("decoder.seg_layers.")]:
            weights[name] = weights[name][rows].contiguous()
    fold = results.checkpoint.resolve().parent.name.replace("_", " ")
    return ForeignNetwork(
        name=" ".join(filter(None, ["nnU-Net", plan.dataset, configuration, fold])),
        network={"class_path": "backbones.PlannedUNet", "init_args": arguments},
        size="base",
        state_dict=weights,
        spacing=plan.spacing,
        normalisation="brain",
        patch_size=plan.patch_size,
    )


def _read_checkpoint(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; no code from it runs."""
    content: Any = load_torch_file(
        file,
        kind="a checkpoint",
        plain="tensors, plain types and numpy's numbers",
        give="give a checkpoint that nnU-Net v2 itself wrote",
        again="copy it again",
        allowed=NUMBERS,
    )
    weights = content.get("network_weights") if isinstance(content, dict) else None
    tensors = isinstance(weights, dict) and all(isinstance(t, Tensor) for t in weights.values())
    started = content.get("init_args") if isinstance(content, dict) else None
    named = isinstance(started, dict) and isinstance(started.get("configuration"), str)
    if not tensors or not weights or not named:
        raise InputError(
            f"{file} is no checkpoint of nnU-Net v2 (no network_weights with init_args and their "
            f"configuration beside them): give the {CHECKPOINT} of a fold."
        )
    return dict(content)


def _check_mirrored(file: Path, stored: Mapping[str, Any]) -> None:
    """Refuse a network that knows left from right, as its files' direction is not recorded."""
    axes = stored.get("inference_allowed_mirroring_axes", (0, 1, 2))
    if others := sorted(EVERY_AXIS.difference(axes or ())):
        raise InputError(
            f"The network in {file} was trained without mirroring along the axes {others}, and "
            f"its results do not tell in which direction these run in its images: {INSTEAD}."
        )


def _turned(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """Return a kernel (O, I, k, k, k) with its axes in the order R, A, S; others unchanged."""
    if tensor.ndim != 5:
        return tensor
    return tensor.permute(0, 1, *(2 + axis for axis in axes)).contiguous()


def _outputs(
    labels: Mapping[str, Sequence[int]], where: Path
) -> tuple[list[int], list[list[int]] | None]:
    """Return the output of every region, or of a network of classes the outputs of each class.

    A network of regions has one output for each, in the order of dataset.json. One of labels has a
    softmax over all of them, in the order of their values.
    """
    try:
        convention = label_convention({k: list(v) for k, v in labels.items()}, "nnunet", where)
        told = convention.regions == REGIONS
    except InputError:
        told = False
    if not told:
        raise InputError(
            f"{where} has the labels {dict(labels)}, which do not give WT, TC and ET: expected "
            "them as regions, or oedema, necrosis and enhancing tumour as classes, by such names: "
            f"{INSTEAD}."
        )
    of = {kind: set(convention.of(kind)) for kind in CLASSES}
    parts = [values for name, values in labels.items() if name != "ignore" and set(values) != {0}]
    if any(len(values) > 1 for values in parts):  # how nnU-Net tells regions from labels
        core = of["necrosis"] | of["enhancing"]
        wanted = [core | of["oedema"], core, of["enhancing"]]
        found = [set(values) for values in parts]
        if len(found) != len(wanted) or any(one not in found for one in wanted):
            raise InputError(
                f"{where} has the regions {dict(labels)}, expected WT, TC and ET alone: {INSTEAD}."
            )
        return [found.index(one) for one in wanted], None
    count = 1 + len(parts)
    if sorted(value for values in parts for value in values) != list(range(1, count)):
        raise InputError(
            f"{where} has the labels {dict(labels)}, expected the values 1 to {count - 1}, each "
            f"once: {INSTEAD}."
        )
    known = set().union(*of.values())
    background = [value for value in range(count) if value not in known]
    return [], [background, *(sorted(of[kind]) for kind in CLASSES)]
