"""Foreign networks on disk: recognised, converted once, and the ids they were trained on."""

import pytest
import torch

from errors import InputError
from lightning_modules.weights.checkpoints import KEY, load_module, read_card
from studies.runs.foreign.networks import convert, is_foreign, read_ids
from tests.foreign_files import write_bundle, write_results


@pytest.fixture
def bundle(tmp_path):
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def results(tmp_path):
    write_results(tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("experiments/dynunet.yaml", False),
        ("runs/a/best.ckpt", False),
        ('{"class_path": "x.Y"}', False),
        ("bundle/models/model.pt", True),
        ("nnUNetTrainer__nnUNetPlans__3d_fullres", True),
    ],
)
def test_what_is_not_this_projects_is_foreign(text, foreign):
    assert is_foreign(text) is foreign


def test_a_converted_network_is_a_checkpoint_of_stage_1(bundle, results, tmp_path):
    for path, name, ending in (
        (bundle, "MONAI bundle bundle", "SegResNet"),
        (bundle / "models" / "model.pt", "MONAI bundle bundle", "SegResNet"),
        (results, "nnU-Net Dataset137_BraTS2021 3d_fullres fold 0", "PlannedUNet"),
        (results / "fold_0", "nnU-Net Dataset137_BraTS2021 3d_fullres fold 0", "PlannedUNet"),
    ):
        found = convert(str(path), tmp_path / "cache")
        module = load_module(found.checkpoint)
        assert type(module.network).__name__ == ending
        assert found.name == name
        assert found.card["unknown"] == [name]
        assert found.card == read_card(found.checkpoint)
        assert not found.card["synthetic"]
    assert len(list((tmp_path / "cache" / "foreign").iterdir())) == 2


def test_it_is_converted_once_and_known_by_its_content(bundle, tmp_path):
    first = convert(str(bundle), tmp_path / "cache")
    time = first.checkpoint.stat().st_mtime_ns
    again = convert(str(bundle), tmp_path / "cache")
    assert (again.checkpoint, again.digest) == (first.checkpoint, first.digest)
    assert again.checkpoint.stat().st_mtime_ns == time
    copied = bundle.rename(tmp_path / "moved")
    moved = convert(str(copied), tmp_path / "cache")
    assert moved.digest == first.digest
    assert moved.name == "MONAI bundle moved"
    write_bundle(copied)  # other weights
    assert convert(str(copied), tmp_path / "cache").digest != first.digest


@pytest.mark.parametrize("place", ["bundle", "bundle/models"])
def test_ids_beside_a_network_are_what_it_was_trained_on(bundle, tmp_path, place):
    unknown = convert(str(bundle), tmp_path / "cache")
    (tmp_path / place / "trained_on.txt").write_text("# ours\nBraTS-GLI-00005-000\n\nA # twice\nA")
    found = convert(str(bundle), tmp_path / "cache", tmp_path / "another file")
    assert found.ids == tmp_path / place / "trained_on.txt"
    assert found.digest != unknown.digest
    assert "unknown" not in found.card
    people = {one["case_id"]: one["patient_id"] for one in found.card["trained_on"]}
    assert people == {"A": "A", "BraTS-GLI-00005-000": "BraTS-GLI-00005"}


def test_an_option_gives_the_ids_of_a_network_that_has_no_file(results, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("B\n")
    found = convert(str(results), tmp_path / "cache", ids)
    assert [one["case_id"] for one in found.card["trained_on"]] == ["B"]
    (results / "fold_0" / "trained_on.txt").write_text("C\n")
    assert convert(str(results), tmp_path / "cache", ids).ids == results / "fold_0/trained_on.txt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no patient"),
        (b"# nobody\n\n", "names no patient"),
        (b"a\nb, c\n", r"has 'b, c' in line 2, expected one id a line"),
        (b'["a"]', r"has '\[\"a\"\]' in line 1"),
        (b"\xff\xfe\x00", r"cannot be read \(no text in UTF-8\)"),
        (None, r"cannot be read \(No such file"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, content, message):
    file = tmp_path / "ids.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_ids(file)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"There is no .*nowhere.*a MONAI bundle's folder or model\.pt, or a folder of"),
        ("export.zip", r"no network of a known kind: unpack it and give its folder"),
        ("model.ts", "TorchScript file holds code"),
        ("empty", r"no network of a known kind: expected a MONAI bundle"),
        ("weights.npz", r"no network of a known kind: expected a MONAI bundle"),
    ],
)
def test_other_paths_are_refused(tmp_path, name, message):
    if name == "empty":
        (tmp_path / name).mkdir()
    elif name != "nowhere":
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        convert(str(tmp_path / name), tmp_path / "cache")


def test_the_checkpoint_holds_nothing_but_tensors_and_plain_types(results, tmp_path):
    file = convert(str(results), tmp_path / "cache").checkpoint
    assert set(torch.load(file, weights_only=True)) == {KEY, "state_dict"}
