"""A MONAI bundle's SegResNet: the same logits, channels and outputs in the order of the project."""

import pytest
import torch
from monai.networks.nets import UNet

from backbones import SegResNet as Ours
from errors import InputError
from lightning_modules.weights.monai_bundle import read_bundle
from tests.foreign_files import PREPARATION, write_bundle, write_json

OF_BASE = {"init_filters": 16, "norm": ["GROUP", {"num_groups": 8}], "dropout_prob": 0.2}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def logits(foreign, image):
    network = Ours(4, 3, foreign.size).eval()
    network.load_state_dict(foreign.state_dict)
    with torch.no_grad():
        return network(image)


@pytest.mark.parametrize(("size", "settings"), [("tiny", {}), ("base", OF_BASE)])
def test_a_bundle_computes_the_same_in_our_order(tmp_path, size, settings):
    given = write_bundle(tmp_path / "brats", **settings)
    foreign = read_bundle(tmp_path / "brats")
    assert (foreign.size, foreign.spacing, foreign.normalisation) == (size, 1.0, "nonzero")
    assert foreign.name == "MONAI bundle brats"
    assert foreign.patch_size == (24, 24, 24)
    t1, t1ce, t2, flair = torch.randn(4, 1, 1, 16, 16, 16)
    with torch.no_grad():
        core, whole, enhancing = given(torch.cat([t1ce, t1, t2, flair], 1)).split(1, dim=1)
    found = logits(foreign, torch.cat([t1, t1ce, t2, flair], 1))
    torch.testing.assert_close(found, torch.cat([whole, core, enhancing], 1), atol=1e-5, rtol=1e-5)


def test_the_order_is_that_of_the_metadata(tmp_path):
    outputs = ("enhancing tumor", "tumor core", "whole tumor")
    given = write_bundle(tmp_path, ("FLAIR", "T2", "T1", "T1c"), outputs, 2.0)
    foreign = read_bundle(tmp_path)
    assert foreign.spacing == 2.0
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        expected = given(image[:, [3, 2, 0, 1]])[:, [2, 1, 0]]
    torch.testing.assert_close(logits(foreign, image), expected, atol=1e-5, rtol=1e-5)


def test_a_file_alone_is_read_as_the_documented_bundle(tmp_path):
    given = write_bundle(tmp_path)
    file = (tmp_path / "models" / "model.pt").rename(tmp_path / "alone.pt")
    for name in ("metadata.json", "inference.json"):
        (tmp_path / "configs" / name).unlink()
    foreign = read_bundle(file)
    assert "read as those of MONAI's BraTS bundle, T1c, T1, T2, FLAIR" in foreign.notes[0]
    assert foreign.patch_size is None
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        expected = given(image[:, [1, 0, 2, 3]])[:, [1, 0, 2]]
    torch.testing.assert_close(logits(foreign, image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": ("T1c", "T1", "FLAIR")}, "takes 3 channels, expected 4, t1, t1ce"),
        ({"outputs": ("tumor", "core")}, "gives 2 channels, expected 3, WT, TC, ET"),
        (
            {"channels": ("T1c", "T1", "T2", "ADC")},
            "names the channels T1c, T1, T2, ADC, exp.*here",
        ),
        ({"outputs": ("Tumor core", "Whole tumor", "Cavity")}, r"names the outputs .*Cavity"),
        ({"init_filters": 32}, r"of other layers .*convInit.* is 32 x 4 x 3 x 3 x 3, not 16 x 4"),
        ({"blocks_down": (1, 2, 2)}, "of other layers"),
        ({"norm": ["GROUP", {"num_groups": 4}], "init_filters": 16}, r"with norm \['GROUP'.*: 4"),
        ({**OF_BASE, "act": "LEAKYRELU"}, "with act LEAKYRELU, expected RELU"),
        ({"spatial_dims": 2}, "not of 3D images"),
        ({"transforms": PREPARATION[:1]}, "does not normalise its images by NormalizeIntensityd"),
        (
            {"transforms": [*PREPARATION, {"_target_": "ScaleIntensityd", "minv": 0}]},
            r"prepares images by ScaleIntensityd \{'minv': 0\}, expected z-scores",
        ),
        (
            {"transforms": [*PREPARATION, {"_target_": "Spacingd", "pixdim": [1, 1, 2]}]},
            r"resamples to \[1, 1, 2\] mm, expected one edge",
        ),
    ],
)
def test_other_bundles_are_refused(tmp_path, settings, message):
    write_bundle(tmp_path, **settings)
    with pytest.raises(InputError, match=message):
        read_bundle(tmp_path)


def test_damaged_and_unsafe_files_are_refused(tmp_path):
    write_bundle(tmp_path)
    file = tmp_path / "models" / "model.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated or of another kind"):
        read_bundle(tmp_path)
    torch.save({"convInit.conv.weight": tmp_path}, file)
    with pytest.raises(InputError, match="pickled objects besides tensors"):
        read_bundle(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=r"holds no models/model\.pt"):
        read_bundle(tmp_path)


def test_another_network_is_called_so(tmp_path):
    write_bundle(tmp_path)
    other = UNet(3, 4, 3, (4, 8), (2,))
    torch.save(other.state_dict(), tmp_path / "models" / "model.pt")
    with pytest.raises(InputError, match="holds another network than MONAI's SegResNet"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.json", {"version": "1"}, r"there is no key 'network_data_format'"),
        ("metadata.json", [], "holds no JSON object"),
        ("inference.json", {}, "needs its preprocessing as transforms"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path, name, content, message):
    write_bundle(tmp_path)
    write_json(tmp_path / "configs" / name, content)
    with pytest.raises(InputError, match=message):
        read_bundle(tmp_path)
