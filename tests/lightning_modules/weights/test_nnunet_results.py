"""Results of nnU-Net v2: the same logits as nnU-Net's formula gives in the order of its files.

Beside nnU-Net 2.8.1 itself (`get_network_from_plans`, dynamic_network_architectures 0.4.2) the
largest difference of a logit was 6e-7, plain and ResEnc M, of regions and of classes, by hand.
"""

from pydoc import locate

import numpy as np
import pytest
import torch

from errors import InputError
from lightning_modules.weights.nnunet_results import read_results
from tests.foreign_files import (
    CLASSES,
    REGIONS,
    changed,
    nnunet_outputs,
    plans,
    write_json,
    write_results,
)

ORDER = {"T1": 0, "T1Gd": 1, "T2": 2, "FLAIR": 3}  # of the project
CHANNELS = ("FLAIR", "T1", "T1Gd", "T2")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def as_nnunet_sees_it(image, transposed):
    """Channels as in dataset.json, axes z, y, x of the file, then `transpose_forward`."""
    arranged = image[:, [ORDER[name] for name in CHANNELS]].permute(0, 1, 4, 3, 2)
    return arranged.permute(0, 1, *(2 + axis for axis in transposed)).contiguous()


def as_we_see_it(outputs, transposed):
    back = [transposed.index(axis) for axis in range(3)]
    return outputs.permute(0, 1, *(2 + axis for axis in back)).permute(0, 1, 4, 3, 2)


@pytest.mark.parametrize("transposed", [[0, 1, 2], [2, 0, 1]])
@pytest.mark.parametrize("labels", [REGIONS, CLASSES], ids=["regions", "classes"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_results_compute_the_same_in_our_order(tmp_path, residual, labels, transposed):
    plan = {**plans(residual), "transpose_forward": transposed}
    weights = write_results(tmp_path, plan, dict(reversed(labels.items())))
    foreign = read_results(tmp_path)
    network = locate(foreign.network["class_path"])(4, 3, **foreign.network["init_args"]).eval()
    network.load_state_dict(foreign.state_dict)
    layers = plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    image = torch.randn(1, 4, *foreign.patch_size)
    with torch.no_grad():
        theirs = nnunet_outputs(weights, layers, as_nnunet_sees_it(image, transposed))
        found = network(image)
    theirs = as_we_see_it(theirs, transposed)
    if labels is REGIONS:  # in the order of dataset.json: ET, TC, WT
        torch.testing.assert_close(found, theirs[:, [2, 1, 0]], atol=1e-4, rtol=1e-4)
    else:  # in the order of the values: edema, necrosis, enhancing
        _, edema, necrosis, enhancing = theirs.double().softmax(dim=1).unbind(dim=1)
        core = necrosis + enhancing
        expected = torch.stack([core + edema, core, enhancing], dim=1)
        torch.testing.assert_close(found.sigmoid().double(), expected, atol=1e-5, rtol=1e-5)
    assert (foreign.spacing, foreign.normalisation, foreign.size) == (1.0, "brain", "base")
    sides = dict(zip(transposed, (16, 24, 20), strict=True))  # of z, y and x
    assert foreign.patch_size == (sides[2], sides[1], sides[0])
    assert foreign.name == "nnU-Net Dataset137_BraTS2021 3d_fullres fold 0"


def test_a_fold_or_one_of_its_checkpoints_is_as_good(tmp_path):
    write_results(tmp_path)
    fold = tmp_path / "fold_0"
    assert read_results(fold).name.endswith("fold 0")
    best = (fold / "checkpoint_final.pth").rename(fold / "checkpoint_best.pth")
    assert read_results(best).name.endswith("fold 0")
    with pytest.raises(InputError, match=r"no checkpoint_final\.pth.*one of checkpoint_best\.pth"):
        read_results(tmp_path)


def test_plans_of_older_versions_and_inherited_ones_are_read(tmp_path):
    new = plans()
    fullres = new["configurations"]["3d_fullres"]
    layers = fullres.pop("architecture")["arch_kwargs"]
    write_results(tmp_path, plans())
    fullres |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": layers["n_conv_per_stage"],
        "n_conv_per_stage_decoder": layers["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": layers["kernel_sizes"],
        "pool_op_kernel_sizes": layers["strides"],
    }
    write_results(tmp_path, changed(plans(), features_per_stage=[4, 6, 6]))
    write_json(tmp_path / "plans.json", new)
    assert read_results(tmp_path).network["init_args"]["filters"] == [4, 6, 6]
    new["configurations"]["base"] = new["configurations"].pop("3d_fullres")
    new["configurations"]["3d_fullres"] = {"inherits_from": "base", "spacing": [2, 2, 2]}
    write_json(tmp_path / "plans.json", new)
    assert read_results(tmp_path).spacing == 2.0


def test_a_cavity_counts_as_background_and_is_no_region(tmp_path):
    write_results(tmp_path, labels={**CLASSES, "resection cavity": 4})
    classes = read_results(tmp_path).network["init_args"]["classes"]
    assert classes == [[0, 4], [2], [1], [3]]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            {"norm_op": "torch.nn.BatchNorm3d"},
            "norm_op is 'BatchNorm3d', expected 'InstanceN",
        ),
        ({"norm_op_kwargs": {"eps": 1e-3, "affine": True}}, "eps is 0.001, expected 1e-05"),
        ({"norm_op_kwargs": {"eps": 1e-5, "affine": False}}, "affine is False, expected True"),
        ({"nonlin": "torch.nn.ReLU"}, "nonlin is 'ReLU', expected 'LeakyReLU'"),
        ({"nonlin_kwargs": {"negative_slope": 0.2}}, "negative_slope is 0.2, expected 0.01"),
        ({"conv_bias": False}, "conv_bias is False, expected True"),
        ({"dropout_op": "torch.nn.Dropout3d"}, r"dropout_op is '.*Dropout3d', expected None"),
        ({"conv_op": "torch.nn.modules.conv.Conv2d"}, "conv_op is 'Conv2d', expected 'Conv3d'"),
        ({"stem_channels": 16}, "stem_channels is 16, expected None"),
        ({"squeeze_excitation": True}, r"squeeze_excitation' is unknown"),
        ({"strides": [[1, 1, 1], [2, 2, 2]]}, "has 2 strides, expected 3"),
    ],
)
def test_layers_that_ours_lack_are_refused(tmp_path, layers, message):
    write_results(tmp_path)
    write_json(tmp_path / "plans.json", changed(plans(), **layers))
    with pytest.raises(InputError, match=message):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"patch_size": [192, 160]}, "for images of two dimensions, expected a 3D"),
        ({"spacing": [3.0, 1.0, 1.0]}, r"voxels of \[3.0, 1.0, 1.0\] mm, expected one edge"),
        ({"normalization_schemes": ["CTNormalization"] * 4}, "is 'CTNormalization', expected 'ZSc"),
        ({"normalization_schemes": ["MyScheme"] * 4}, "is 'MyScheme', expected 'ZScoreNormal"),
        ({"use_mask_for_norm": [False] * 4}, r"use_mask_for_norm\[0\] is False, expected True"),
        ({"preprocessor_name": "MyPreprocessor"}, "preprocessor_name is 'MyPreprocessor'"),
        ({"previous_stage": "3d_lowres"}, "previous_stage is '3d_lowres', expected None"),
    ],
)
def test_images_that_are_prepared_otherwise_are_refused(tmp_path, configuration, message):
    write_results(tmp_path)
    write_json(tmp_path / "plans.json", plans(**configuration))
    with pytest.raises(InputError, match=message):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "tumor": 1}, "do not give WT, TC and ET"),
        ({"background": 0, "a": 1, "b": 2, "c": 3}, "do not give WT, TC and ET"),
        ({**REGIONS, "resection cavity": 4}, "expected WT, TC and ET alone"),
        (
            {"background": 0, "whole": [1, 2], "edema": 1, "enhancing": 2},
            "do not give WT, TC and ET",
        ),
    ],
)
def test_other_regions_are_refused(tmp_path, labels, message):
    write_results(tmp_path)
    dataset = {"channel_names": dict(zip("0123", CHANNELS, strict=True)), "labels": labels}
    write_json(tmp_path / "dataset.json", dataset)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (("CT",), "names the channels CT, expected t1"),
        (("T1", "T2", "PD", "FLAIR"), "channels T1, T2, PD, FLAIR, expected t1, .*used here"),
        (
            ("T1", "T1w", "T2", "FLAIR"),
            "channels T1, T1w, T2, FLAIR, expected .*each once, .*used here",
        ),
    ],
)
def test_other_modalities_are_refused(tmp_path, channels, message):
    write_results(tmp_path)
    named = {str(number): name for number, name in enumerate(channels)}
    write_json(tmp_path / "dataset.json", {"channel_names": named, "labels": REGIONS})
    with pytest.raises(InputError, match=message):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (
            {"inference_allowed_mirroring_axes": None},
            r"mirroring along the axes \[0, 1, 2\]",
        ),
        ({"inference_allowed_mirroring_axes": (0, 1)}, r"mirroring along the axes \[2\]"),
        ({"network_weights": {}}, "is no checkpoint of nnU-Net v2"),
        ({"init_args": {"configuration": "3d_huge"}}, r"no configuration 3d_huge \(2d, 3d_full"),
        ({"init_args": {"configuration": "2d"}}, "images of two dimensions"),
        ({"logging": np.zeros(3)}, "pickled objects besides tensors, plain types and numpy's"),
        ({"logging": torch.nn.ReLU()}, "pickled objects besides tensors, plain types and numpy's"),
    ],
)
def test_other_and_unsafe_checkpoints_are_refused(tmp_path, stored, message):
    write_results(tmp_path, **stored)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path)


def test_weights_of_another_plan_are_refused(tmp_path):
    write_results(tmp_path)
    write_json(tmp_path / "plans.json", changed(plans(), features_per_stage=[4, 8, 8]))
    with pytest.raises(InputError, match="are not those of the network in"):
        read_results(tmp_path)
    file = tmp_path / "plans.json"
    other = plans()
    kind = other["configurations"]["3d_fullres"]["architecture"]
    kind["network_class_name"] = "dynamic_network_architectures.architectures.primus.PrimusM"
    write_json(file, other)
    with pytest.raises(InputError, match=r"network_class_name is 'PrimusM', expected 'PlainConv"):
        read_results(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    write_results(tmp_path)
    file = tmp_path / "fold_0" / "checkpoint_final.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[:-200])
    with pytest.raises(InputError, match=r"checkpoint_final\.pth cannot be read.*truncated"):
        read_results(tmp_path)
    file.write_bytes(whole)
    (tmp_path / "fold_1").mkdir()
    with pytest.raises(InputError, match=r"2 folds \(fold_0, fold_1\).*such as .*fold_0\.$"):
        read_results(tmp_path)
    (tmp_path / "fold_1").rmdir()
    (tmp_path / "plans.json").write_text("{")
    with pytest.raises(InputError, match=r"plans\.json cannot be read as JSON"):
        read_results(tmp_path)
    for name in ("plans.json", "dataset.json"):
        (tmp_path / name).rename(tmp_path / "aside")
        with pytest.raises(InputError, match=f"holds no {name}, which nnU-Net v2 writes"):
            read_results(tmp_path / "fold_0")
        (tmp_path / "aside").rename(tmp_path / name)
    (tmp_path / "fold_0").rename(tmp_path / "0")
    with pytest.raises(InputError, match=r"no folder of a fold, such as fold_0"):
        read_results(tmp_path)
