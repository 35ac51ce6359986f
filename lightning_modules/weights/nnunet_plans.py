"""`plans.json` of nnU-Net v2: the network that it plans, and the images that the network takes.

nnU-Net reads the axes of a file in the order z, y, x and transposes them by `transpose_forward`;
here all numbers of axes are brought to the order of this project, R, A, S, which are x, y, z.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from backbones.nnunet_blocks import SLOPE
from datamodules.layouts.description_files import validated
from errors import InputError
from lightning_modules.weights.foreign import INSTEAD

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
Item = TypeVar("Item")


def _last(name: Any) -> Any:
    """The name of a class without its module, which moves between versions."""
    return name.rpartition(".")[2] if isinstance(name, str) else name


def _is(wanted: float) -> Callable[[float], float]:
    """Return a check that a number is the one that our layers have."""

    def check(value: float) -> float:
        if value != wanted:
            raise ValueError(f"is {value:g}, expected {wanted:g}")
        return value

    return check


Triple = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
Triples = Annotated[list[Triple], Field(min_length=2)]
Counts = list[Annotated[int, Field(ge=1)]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _NormOptions(_Strict):
    affine: Literal[True]
    eps: Annotated[float, AfterValidator(_is(1e-5))] = 1e-5


class _ActivationOptions(_Strict):
    inplace: bool = True
    negative_slope: Annotated[float, AfterValidator(_is(SLOPE))] = SLOPE


class _Layers(_Strict):
    """Arguments of a network, of which one value is taken wherever ours has no choice."""

    n_stages: int
    features_per_stage: Annotated[Counts, Field(min_length=2)]
    conv_op: Annotated[Literal["Conv3d"], BeforeValidator(_last)]
    kernel_sizes: Triples
    strides: Triples
    n_conv_per_stage: Counts | None = None
    n_blocks_per_stage: Counts | None = None
    n_conv_per_stage_decoder: Counts
    conv_bias: Literal[True]
    norm_op: Annotated[Literal["InstanceNorm3d"], BeforeValidator(_last)]
    norm_op_kwargs: _NormOptions
    dropout_op: None = None
    dropout_op_kwargs: None = None
    nonlin: Annotated[Literal["LeakyReLU"], BeforeValidator(_last)]
    nonlin_kwargs: _ActivationOptions
    nonlin_first: Literal[False] = False
    deep_supervision: bool = False
    stem_channels: None = None
    bottleneck_channels: None = None

    @model_validator(mode="after")
    def _one_entry_a_level(self) -> Self:
        for name in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder"):
            wanted = self.n_stages - (name == "n_conv_per_stage_decoder")
            if len(getattr(self, name)) != wanted:
                raise ValueError(f"has {len(getattr(self, name))} {name}, expected {wanted}")
        if set(self.strides[0]) != {1}:
            raise ValueError(f"begins with the stride {self.strides[0]}, expected 1")
        even = next((one for one in self.kernel_sizes if any(side % 2 == 0 for side in one)), None)
        if even:
            raise ValueError(f"has the kernel {even}, expected odd numbers")
        return self


class _Architecture(BaseModel):
    network_class_name: Annotated[
        Literal["PlainConvUNet", "ResidualEncoderUNet"], BeforeValidator(_last)
    ]
    arch_kwargs: _Layers

    @model_validator(mode="after")
    def _counts_its_layers(self) -> Self:
        residual = self.network_class_name == RESIDUAL
        name = "n_blocks_per_stage" if residual else "n_conv_per_stage"
        counts = getattr(self.arch_kwargs, name)
        if counts is None or len(counts) != self.arch_kwargs.n_stages:
            raise ValueError(f"has not one number a level in {name}")
        return self


class _Configuration(BaseModel):
    patch_size: Triple
    spacing: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    normalization_schemes: list[Literal["ZScoreNormalization"]]
    use_mask_for_norm: list[Literal[True]]
    preprocessor_name: Literal["DefaultPreprocessor"] = "DefaultPreprocessor"
    previous_stage: None = None
    architecture: _Architecture


class _Plans(BaseModel):
    dataset_name: str = ""
    transpose_forward: Annotated[list[int], Field(min_length=3, max_length=3)] = [0, 1, 2]
    configurations: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """A network of nnU-Net and the images it takes, axes in the order R, A, S.

    Args:
        dataset: name of the data set that it was planned for.
        network: arguments of `backbones.PlannedUNet`.
        patch_size: voxels of its windows.
        spacing: voxel edge in mm.
        axes: for each of R, A and S the axis of nnU-Net's arrays and kernels.
    """

    dataset: str
    network: Mapping[str, Any]
    patch_size: tuple[int, ...]
    spacing: float
    axes: tuple[int, ...]


def read_plan(content: Any, configuration: str, where: Path) -> Plan:
    """Return what plans say of one configuration.

    Args:
        content: content of `plans.json`.
        configuration: name of the configuration, such as ``3d_fullres``.
        where: the file, for messages.

    Raises:
        InputError: when the network is of another kind than ours, or was trained on images that
            are prepared otherwise.
    """
    plans = validated(_Plans, content, where, "the configurations that nnU-Net v2 planned")
    found = _resolved(plans.configurations, configuration, where)
    if len(found.get("patch_size") or ()) == 2:
        raise InputError(
            f"{where} plans {configuration} for images of two dimensions, expected a 3D "
            f"configuration such as 3d_fullres: {INSTEAD}."
        )
    try:
        stated = validated(_Configuration, found, where)
    except InputError as error:
        fault = str(error).removeprefix(f"{where}: ").rstrip(".")
        raise InputError(f"{where}, configuration {configuration}: {fault}; {INSTEAD}.") from error
    if sorted(plans.transpose_forward) != [0, 1, 2]:
        raise InputError(f"{where} has transpose_forward {plans.transpose_forward}: {INSTEAD}.")
    axes = tuple(plans.transpose_forward.index(2 - axis) for axis in range(3))
    edges = [round(edge, 3) for edge in stated.spacing]
    if len(set(edges)) > 1:
        raise InputError(
            f"{where} plans {configuration} for voxels of {edges} mm, expected one edge for all "
            f"axes: {INSTEAD}."
        )

    def ours(one: Sequence[Item]) -> list[Item]:
        return [one[axis] for axis in axes]

    layers = stated.architecture.arch_kwargs
    network = {
        "filters": layers.features_per_stage,
        "kernels": [ours(one) for one in layers.kernel_sizes],
        "strides": [ours(one) for one in layers.strides],
        "counts": layers.n_blocks_per_stage or layers.n_conv_per_stage,
        "decoder_counts": layers.n_conv_per_stage_decoder,
        "residual": stated.architecture.network_class_name == RESIDUAL,
    }
    size = tuple(ours(stated.patch_size))
    return Plan(plans.dataset_name, network, size, edges[0], axes)


def _resolved(plans: Mapping[str, Any], name: str, where: Path) -> dict[str, Any]:
    """Return a configuration with what it inherits, in the form of present versions."""
    found: dict[str, Any] = {}
    seen: list[str] = []
    wanted: Any = name
    while wanted is not None:
        if wanted not in plans or wanted in seen:
            raise InputError(
                f"{where} holds no configuration {wanted} ({', '.join(plans) or 'none'}): put the "
                "plans.json of this network back."
            )
        seen.append(wanted)
        found = {**plans[wanted], **found}
        wanted = plans[wanted].get("inherits_from")
    return found if "architecture" in found else _of_older_version(found)


def _of_older_version(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of nnU-Net before 2.3, which named the layers one by one."""
    if "UNet_class_name" not in plan:
        return plan
    encoder = plan.get("n_conv_per_stage_encoder") or []
    widest, first = plan.get("unet_max_num_features"), plan.get("UNet_base_num_features")
    known = isinstance(widest, int) and isinstance(first, int)
    counted = "n_conv_per_stage" if plan["UNet_class_name"] == PLAIN else "n_blocks_per_stage"
    layers = {
        "n_stages": len(encoder),
        "features_per_stage": [min(first * 2**i, widest) for i in range(len(encoder))]
        if known
        else None,
        "conv_op": "Conv3d",
        "kernel_sizes": plan.get("conv_kernel_sizes"),
        "strides": plan.get("pool_op_kernel_sizes"),
        counted: encoder,
        "n_conv_per_stage_decoder": plan.get("n_conv_per_stage_decoder"),
        "conv_bias": True,
        "norm_op": "InstanceNorm3d",
        "norm_op_kwargs": {"affine": True},
        "nonlin": "LeakyReLU",
        "nonlin_kwargs": {},
    }
    architecture = {"network_class_name": plan["UNet_class_name"], "arch_kwargs": layers}
    return {**plan, "architecture": architecture}
