"""`lightning predict` loses no file: the real command line, with a network of one step."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

import cli
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from outputs import LEDGER
from tests.datamodules.tiny_patients import make_volumes, save

pytestmark = pytest.mark.slow

MODALITIES = ("t1", "t1ce", "t2", "flair")


def write_patient(folder, case_id, seed, labelled=True):
    images, label = make_volumes(seed)
    for name, array in {**images, **({"seg": label} if labelled else {})}.items():
        save(array, folder / f"{case_id}_{name}.nii.gz")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The words that name a network trained for one step, on patients of this module."""
    home = tmp_path_factory.mktemp("no_harm")
    for number in range(5):
        case_id = f"BraTS2021_{number:05d}"
        write_patient(home / "cohort" / case_id, case_id, number)
    words = ["--config", "experiments/dynunet.yaml", "--runs_dir", str(home / "runs")]
    settings = ["--model.size=tiny", "--data.patch_size=[16,16,16]", "--data.spacing=2"]
    settings += ["--data.patches_per_epoch=1", "--trainer.max_epochs=1", "--data.num_workers=0"]
    settings += ["--trainer.precision=32-true"]  # such small patches are refused in bf16
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "disabled")
        patched.setenv("GLIOFUSE_CACHE", str(home / "cache"))
        assert cli.main(["fit", *words, "--data.root", str(home / "cohort"), *settings]) == 0
        yield words


def sums(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def predict(trained, *words):
    return cli.main(["predict", *trained, *map(str, words)])


def of_one(folder, case_id):
    return [word for m in MODALITIES for word in (f"--{m}", folder / f"{case_id}_{m}.nii.gz")]


def refused(capsys, trained, *words):
    capsys.readouterr()
    assert predict(trained, *words) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lightning predict: ")
    assert message.endswith(".")
    return message


def test_the_label_of_an_expert_beside_the_images_stays(trained, tmp_path, capsys):
    write_patient(tmp_path / "p", "BraTS2021_00073", 9)
    before = sums(tmp_path)
    images = of_one(tmp_path / "p", "BraTS2021_00073")
    (tmp_path / "link").symlink_to(tmp_path / "p")
    for output in (tmp_path / "p", tmp_path, tmp_path / "link"):
        message = refused(capsys, trained, *images, "--output", output)
        assert "give a folder of its own as --output" in message
        assert "give a folder of its own" in refused(
            capsys, trained, *images, "--output", output, "--overwrite"
        )
    assert sums(tmp_path) == before
    assert predict(trained, *images, "--output", tmp_path / "p" / "predicted") == 0  # the advice
    after = sums(tmp_path)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("place", [".", "imagesTr", "labelsTr", "new"])
def test_a_collection_is_never_written_into(trained, tmp_path, capsys, place):
    root = tmp_path / "msd"
    for number in (1, 2):
        images, label = make_volumes(number, enhancing=3)
        stacked = np.stack([images[m] for m in ("flair", "t1", "t1ce", "t2")], -1)
        save(stacked, root / "imagesTr" / f"BRATS_00{number}.nii.gz")
        save(label, root / "labelsTr" / f"BRATS_00{number}.nii.gz")
    before = sums(root)
    for given in (root, root / "imagesTr"):
        message = refused(capsys, trained, "--data.root", given, "--output", root / place)
        assert "which holds the patients" in message
    assert sums(root) == before


def test_the_root_of_a_nested_cohort_stays_readable(trained, tmp_path, capsys):
    for number in (7, 8):
        case_id = f"BraTS2021_{number:05d}"
        write_patient(tmp_path / "cohort" / case_id, case_id, number)
    words = ["--data.root", tmp_path / "cohort"]
    assert "lies in" in refused(capsys, trained, *words, "--output", tmp_path / "cohort")
    assert "lies in" in refused(capsys, trained, *words, "--output", tmp_path / "cohort" / "masks")
    assert predict(trained, *words, "--output", tmp_path / "masks") == 0
    assert predict(trained, *words, "--output", tmp_path / "again") == 0


def test_patients_whose_masks_would_have_one_name_are_refused_before_the_first(
    trained, tmp_path, capsys
):
    for case_id in ("Anna", "anna"):
        write_patient(tmp_path / "cohort" / case_id, case_id, len(set(case_id)) + ord(case_id[0]))
    layout = {
        "images": {m: f"{{case}}/{{case}}_{m}.nii.gz" for m in MODALITIES},
        "labels": {"necrosis": 1, "oedema": 2, "enhancing": 4},
    }
    (tmp_path / "ward.yaml").write_text(yaml.safe_dump(layout))
    words = ["--data.root", tmp_path / "cohort", "--data.layout", tmp_path / "ward.yaml"]
    message = refused(capsys, trained, *words, "--output", tmp_path / "out")
    assert "two results would be written to" in message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def one(tmp_path):
    """Words that predict one patient into `tmp_path / "out"`."""
    write_patient(tmp_path / "p", "BraTS2021_00073", 9, labelled=False)
    return [*of_one(tmp_path / "p", "BraTS2021_00073"), "--output", tmp_path / "out"]


def test_a_mask_corrected_by_hand_is_kept(trained, one, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(trained, *one) == 0
    assert predict(trained, *one) == 0  # the same again writes over its own
    mask = out / "BraTS2021_00073_seg.nii.gz"
    save(np.ones((26, 30, 22), np.uint8), mask)
    corrected = mask.read_bytes()
    message = refused(capsys, trained, *one, "--probabilities")
    assert f"holds the file {mask.name} that was changed after this program wrote it" in message
    assert mask.read_bytes() == corrected
    assert predict(trained, *one, "--overwrite") == 0  # the advice
    (aside,) = tmp_path.glob("out.replaced-*")
    assert (aside / mask.name).read_bytes() == corrected
    assert mask.read_bytes() != corrected
    assert predict(trained, *one) == 0


def test_a_file_that_another_tool_wrote_is_refused_even_with_overwrite(
    trained, one, tmp_path, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for name in ("BraTS2021_00073_seg.nii.gz", "BraTS2021_00073.png", "volumes.csv"):
        (out / name).write_text("of another tool")
        for words in ((), ("--overwrite",)):
            refused(capsys, trained, *one, *words)
        assert (out / name).read_text() == "of another tool"
        (out / name).rename(tmp_path / name)  # the advice
    assert predict(trained, *one) == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert predict(trained, *one, "--tta", "flips", "--overwrite") == 0
    assert (out / "notes.txt").read_text() == "mine"  # stays, and the first prediction is kept
    (aside,) = tmp_path.glob("out.replaced-*")
    assert (aside / "volumes.csv").is_file()


def test_predictions_of_an_earlier_version_are_moved_aside_when_that_is_wished(
    trained, one, tmp_path, capsys
):
    out = tmp_path / "out"
    assert predict(trained, *one) == 0
    (out / LEDGER).unlink()
    before = sums(out)
    message = refused(capsys, trained, *one)
    assert "of an earlier version of this program, which kept no list of its files" in message
    assert "--overwrite to move that aside" in message
    assert sums(out) == before
    assert predict(trained, *one, "--overwrite") == 0
    (aside,) = tmp_path.glob("out.replaced-*")
    assert sums(aside) == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_prediction_that_is_killed_is_repeated_by_the_same_command(
    trained, tmp_path, monkeypatch, moment
):
    for number in (7, 8):
        case_id = f"BraTS2021_{number:05d}"
        write_patient(tmp_path / "cohort" / case_id, case_id, number)
    words = ["--data.root", tmp_path / "cohort", "--output", tmp_path / "out"]
    written = PredictionWriter.write_table

    class KilledError(Exception):
        pass

    def killed(self, rows):
        if moment == "after":
            written(self, rows)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(PredictionWriter, "write_table", killed)
        with pytest.raises(KilledError):
            predict(trained, *words)
    assert (tmp_path / "out" / "BraTS2021_00007_seg.nii.gz").is_file()
    assert predict(trained, *words) == 0
    assert len((tmp_path / "out" / "volumes.csv").read_text().splitlines()) == 3


def test_a_mask_says_nothing_that_its_images_said(trained, one, tmp_path):
    for file in (tmp_path / "p").glob("*.nii.gz"):
        image = nib.load(file)
        image.header["descrip"], image.header["db_name"] = b"Erika Mustermann 1961", b"Erika"
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header), file)
    assert predict(trained, *one, "--probabilities") == 0
    for file in (tmp_path / "out").glob("*.nii.gz"):
        assert b"Erika" not in nib.load(file).header.binaryblock
    for file in (*(tmp_path / "out").glob("*.json"), *(tmp_path / "out").glob("*.png")):
        assert b"Erika" not in file.read_bytes()


def test_a_results_dir_of_another_test_is_refused(trained, tmp_path, capsys):
    words = ["test", *trained, "--results_dir", str(tmp_path / "scores")]
    assert cli.main(words) == 0
    table = (tmp_path / "scores" / "per_case.csv").read_bytes()
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main([*words, "--rule", "nan"]) == 2
    assert "results of rule brats instead of nan: give another --results_dir." in (
        capsys.readouterr().err
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "calibration.csv").write_text("mine")
    words = ["test", *trained, "--results_dir", str(tmp_path / "mine")]
    assert cli.main(words) == 2
    assert "calibration.csv that this program did not write" in capsys.readouterr().err
    assert (tmp_path / "mine" / "calibration.csv").read_text() == "mine"
    assert (tmp_path / "scores" / "per_case.csv").read_bytes() == table
    assert json.loads((tmp_path / "scores" / "test.json").read_text())["rule"] == "brats"


def test_scores_that_the_user_annotated_in_a_run_are_kept(trained, capsys):
    words = ["test", *trained]
    assert cli.main(words) == 0
    (table,) = Path(trained[-1]).glob("dynunet/*/per_case.csv")
    table.write_text("annotated")
    assert cli.main(words) == 0
    (kept,) = table.parent.glob("per_case.csv.replaced-*")
    assert kept.read_text() == "annotated"
    assert str(kept) in capsys.readouterr().out
    assert cli.main(words) == 0
    assert list(table.parent.glob("*.replaced-*")) == [kept]


def test_prepare_writes_no_folder_among_the_exams(tmp_path, capsys):
    write_patient(tmp_path / "exams" / "p1", "p1", 9, labelled=False)
    before = sums(tmp_path)
    for out in ("exams", "exams/p1", "exams/registered"):
        words = ["--data.root", str(tmp_path / "exams"), "--out", str(tmp_path / out)]
        assert cli.main(["prepare", *words]) == 2
        assert "which holds the patients" in capsys.readouterr().err
    words = ["--data.root", str(tmp_path / "exams"), "--out", str(tmp_path)]
    assert cli.main(["prepare", *words]) == 2
    assert "which is an input: give a folder of its own" in capsys.readouterr().err
    assert sums(tmp_path) == before


def test_evaluate_keeps_files_of_the_user_in_the_folder_of_the_masks(tmp_path, capsys):
    for name in ("predictions", "references"):
        save(make_volumes(3)[1], tmp_path / name / "BraTS2021_00003_seg.nii.gz")
    folders = [str(tmp_path / name) for name in ("predictions", "references")]
    words = ["evaluate", "--predictions", folders[0], "--references", folders[1]]
    for name in ("unscored.csv", "calibration.csv", "per_case.partial.csv"):
        file = tmp_path / "predictions" / name
        file.write_text("mine")
        for extra in ((), ("--overwrite",)):
            assert cli.main([*words, *extra]) == 2
            assert f"{name} that this program did not write" in capsys.readouterr().err
        assert file.read_text() == "mine"
        file.unlink()
    assert cli.main(words) == 0
    table = tmp_path / "predictions" / "per_case.csv"
    table.write_text("annotated")
    assert cli.main(words) == 2
    assert "per_case.csv that was changed after" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite"]) == 0  # the advice
    (kept,) = (tmp_path / "predictions").glob("per_case.csv.replaced-*")
    assert kept.read_text() == "annotated"
