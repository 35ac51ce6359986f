"""``lightning evaluate``: masks of other tools, other layouts, other rules."""

import io
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import cli
from datamodules.layouts.conventions import BRATS_3, BRATS_4
from evaluation.metrics.calibration import Reliability, measure_reliability
from evaluation.metrics.scores import score_case
from evaluation.tables.per_case import read_csv
from outputs import LEDGER, Outputs
from studies.commands import evaluate as evaluating
from studies.scores.mask_folders import find_masks
from tests.studies.masks import (
    CASES,
    SPACING,
    evaluate,
    make_folders,
    regions,
    rows_of,
    write,
)


@pytest.fixture
def folders(tmp_path):
    return make_folders(tmp_path)


def test_scores_are_those_of_score_case_whatever_the_conventions(folders, capsys):
    assert evaluate(folders, "--out", folders / "new") == 0
    rows = read_csv(folders / "new" / "per_case.csv")
    assert [row["case_id"] for row in rows] == CASES
    for seed, row in enumerate(rows):
        expected = score_case(np.roll(regions(seed), 1, axis=1), regions(seed), SPACING)
        assert {name: row[name] for name in expected} == expected
        assert row["volume_ml/WT"] == pytest.approx(regions(seed)[0].sum() * 0.002, abs=1e-3)
    printed = capsys.readouterr().out
    for words in ("3 cases", "(rule brats)", "predictions read as brats2023", "per_case.csv"):
        assert words in printed
    assert not (folders / "new" / "calibration.csv").exists()


def test_a_rule_and_regions_can_be_chosen_and_are_recorded(folders, capsys):
    assert evaluate(folders, "--rule", "nan", "--regions", "WT,ET") == 0
    rows = rows_of(folders / "predictions" / "per_case.csv")
    assert {row["empty_rule"] for row in rows} == {"nan"}
    assert [row["dice/ET"] == "nan" for row in rows] == [True, False, False]
    assert "dice/TC" not in rows[0]
    printed = capsys.readouterr().out
    assert "(rule nan)" in printed
    assert "cases counted: 2 in dice/ET" in printed


def test_nnunet_folders_tell_what_their_labels_mean(tmp_path):
    raw = tmp_path / "Dataset001"
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    labels = {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3}
    swapped = np.array([0, 2, 1, 3], dtype=np.uint8)  # nnU-Net's order
    for seed, case_id in enumerate(CASES):
        reference = swapped[BRATS_3.from_regions(regions(seed))]
        write(raw / "labelsTr" / f"{case_id}.nii.gz", reference)
        write(tmp_path / "predictions" / f"{case_id}.nii.gz", reference)
        for number in channels:
            (raw / "imagesTr").mkdir(exist_ok=True)
            (raw / "imagesTr" / f"{case_id}_000{number}.nii.gz").touch()
    described = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(described))
    paths = ("--predictions", tmp_path / "predictions", "--references", raw / "labelsTr")
    assert cli.main(["evaluate", *map(str, paths)]) == 0
    rows = read_csv(tmp_path / "predictions" / "per_case.csv")
    assert [row["volume_ml/TC"] for row in rows] == [
        pytest.approx(regions(seed)[1].sum() * 0.002, abs=1e-3) for seed in range(3)
    ]


def test_whole_tumour_masks_and_names_that_end_in_numbers(tmp_path):
    for seed in (1, 2):
        whole = regions(seed)[0].astype(np.int32)
        write(tmp_path / "predictions" / f"patient_000{seed}.nii.gz", whole)
        write(tmp_path / "references" / f"patient_000{seed}-seg.nii.gz", whole)
    assert evaluate(tmp_path, "--labels", "brats2021", "--regions", "WT", labels=()) == 0
    rows = read_csv(tmp_path / "predictions" / "per_case.csv")
    assert [(row["case_id"], row["dice/WT"]) for row in rows] == [
        ("patient_0001", 1.0),
        ("patient_0002", 1.0),
    ]


def test_names_tell_what_predictions_mean_also_where_references_do_not(tmp_path):
    case_id = "BraTS-GLI-00001-000"
    write(tmp_path / "predictions" / f"{case_id}-seg.nii.gz", BRATS_3.from_regions(regions(1)))
    write(tmp_path / "references" / f"{case_id}.nii.gz", BRATS_4.from_regions(regions(1)))
    assert evaluate(tmp_path, "--labels", "brats2021", labels=()) == 0
    (row,) = read_csv(tmp_path / "predictions" / "per_case.csv")
    assert row["dice/ET"] == 1.0


def test_labels_from_a_file_with_a_cavity_as_background(tmp_path):
    labels = BRATS_4.from_regions(regions(1)).astype(np.float32)  # a tool that writes floats
    labels[0, 0, 0] = 7
    for folder, name in (("predictions", "a-seg.nii.gz"), ("references", "a_seg.nii")):
        write(tmp_path / folder / name, labels)
    (tmp_path / "ours.yaml").write_text("necrosis: 1\noedema: 2\nenhancing: 4\nbackground: [7]\n")
    assert evaluate(tmp_path, "--labels", tmp_path / "ours.yaml", labels=()) == 0
    (row,) = read_csv(tmp_path / "predictions" / "per_case.csv")
    assert row["volume_ml/WT"] == pytest.approx(regions(1)[0].sum() * 0.002, abs=1e-3)


def test_missing_predictions_are_refused_or_told(folders, capsys):
    (folders / "predictions" / f"{CASES[1]}.nii.gz").unlink()
    write(folders / "predictions" / "stranger.nii.gz", BRATS_3.from_regions(regions(1)))
    assert evaluate(folders) == 2
    assert f"1 of 3 references have no prediction in {folders}" in capsys.readouterr().err
    assert evaluate(folders, "--allow_missing", "true") == 0
    printed = capsys.readouterr().out
    assert f"1 of 3 references have no prediction and are not counted: {CASES[1]}" in printed
    assert "1 predictions have no reference: stranger" in printed
    assert len(rows_of(folders / "predictions" / "per_case.csv")) == 2
    assert "unscored.csv" in printed
    assert rows_of(folders / "predictions" / "unscored.csv") == [
        {"case_id": CASES[1], "reason": "no prediction"}
    ]


def test_an_evaluation_that_is_killed_leaves_the_earlier_one_whole(folders, monkeypatch):
    out = folders / "predictions"
    stale = ("calibration.csv", "reliability.png", "unscored.csv")
    assert evaluate(folders) == 0
    whole = (out / "per_case.csv").read_bytes()
    for name in stale:
        Outputs(out, "--out").write(name, "")

    class KilledError(Exception):
        pass

    def killed(pairs, options):
        yield from list(scored(pairs, options))[:1]
        raise KilledError

    scored = evaluating.score_pairs
    with monkeypatch.context() as patched:
        patched.setattr(evaluating, "score_pairs", killed)
        with pytest.raises(KilledError):
            evaluate(folders, "--rule", "nan", "--overwrite")
    assert (out / "per_case.csv").read_bytes() == whole
    assert json.loads((out / "evaluation.json").read_text())["rule"] == "brats"
    assert all((out / name).exists() for name in stale)
    (row,) = rows_of(out / "per_case.partial.csv")
    assert row["empty_rule"] == "nan"
    assert evaluate(folders, "--rule", "nan", "--overwrite") == 0
    assert {row["empty_rule"] for row in rows_of(out / "per_case.csv")} == {"nan"}
    left = {file.name for file in out.iterdir() if file.suffix != ".gz"}
    assert left == {"per_case.csv", "evaluation.json", LEDGER}


def test_another_evaluation_in_the_folder_is_refused_before_anything_is_read(
    folders, monkeypatch, capsys
):
    monkeypatch.chdir(folders)
    shutil.copytree("references", "others")
    Path("ours.yaml").write_text("necrosis: 1\noedema: 2\nenhancing: 4\nbackground: [7]\n")
    assert evaluate(folders, "--out", "out") == 0
    whole = Path("out/per_case.csv").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(evaluating, "evaluate_pairs", None)
        for words, other in (
            (("--rule", "nan"), "rule brats instead of nan"),
            (("--regions", "WT,ET"), "regions WT,TC,ET instead of WT,ET"),
            (
                ("--references", "others"),
                f"references {folders}/references instead of {folders}/others",
            ),
            (("--labels", "ours.yaml"), "labels by the names instead of ours (necrosis 1, oedema"),
        ):
            capsys.readouterr()
            assert evaluate(folders, "--out", "out", *words) == 2
            printed = capsys.readouterr().err
            assert printed.startswith(f"lightning evaluate: --out out holds results of {other}")
            assert printed.endswith("give another --out, or --overwrite to replace that.\n")
    assert Path("out/per_case.csv").read_bytes() == whole
    assert evaluate(folders, "--out", "out") == 0  # the same inputs are accepted
    Path("out/evaluation.json").unlink()  # as in the folder of a run
    assert evaluate(folders, "--out", "out") == 2
    assert "a per_case.csv that does not say of what it was made" in capsys.readouterr().err
    assert evaluate(folders, "--out", "out", "--regions", "WT", "--overwrite") == 0
    assert "dice/TC" not in rows_of(Path("out/per_case.csv"))[0]
    assert evaluate(folders, "--out", "out", "--regions", "WT") == 0


def test_two_masks_of_one_case_are_both_named_whatever_layout_one_has(folders, capsys):
    first = folders / "predictions" / f"{CASES[0]}.nii.gz"
    second = first.with_name(f"{CASES[0]}_seg.nii.gz")
    write(second, BRATS_3.from_regions(regions(0)))
    assert evaluate(folders) == 2
    printed = capsys.readouterr().err
    assert f"{CASES[0]} has two masks in --predictions" in printed
    assert str(first) in printed
    assert str(second) in printed


def test_a_terminal_that_draws_no_bars_gets_none(folders, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert evaluate(folders) == 0
    assert terminal.getvalue() == ""


def test_probabilities_beside_the_masks_are_calibrated(folders, capsys):
    probabilities = {}
    for seed, case_id in enumerate(CASES[:2]):
        blurred = 0.8 * np.roll(regions(seed), 1, axis=1) + 0.05
        probabilities[case_id] = np.moveaxis(blurred, 0, -1).astype(np.float32)
        write(folders / "predictions" / f"{case_id}_probabilities.nii.gz", probabilities[case_id])
    assert evaluate(folders) == 0
    rows = rows_of(folders / "predictions" / "calibration.csv")
    expected = sum(
        (
            measure_reliability(p[..., 1], regions(s)[1])
            for s, p in enumerate(probabilities.values())
        ),
        start=Reliability.from_rows([]),
    )
    counts = Reliability.from_rows([row for row in rows if row["region"] == "TC"])
    assert counts.voxels.tolist() == expected.voxels.tolist()
    assert counts.ece == pytest.approx(expected.ece)
    assert f"TC  {expected.ece:.4f} over all voxels" in capsys.readouterr().out
    assert (folders / "predictions" / "reliability.png").stat().st_size > 10_000
    write(folders / "predictions" / f"{CASES[0]}_probabilities.nii.gz", np.ones((20, 18, 14, 2)))
    assert evaluate(folders) == 1
    assert "has the shape (20, 18, 14, 2)" in capsys.readouterr().out


def test_probabilities_named_after_a_mask_with_seg_are_found_too(tmp_path):
    for name in ("a_seg", "a_seg_probabilities", "b_seg", "b_seg_probabilities", "b_probabilities"):
        (tmp_path / f"{name}.nii.gz").touch()
    found = find_masks(tmp_path, "predictions").by_case
    assert [(case_id, mask.probabilities.name) for case_id, mask in found.items()] == [
        ("a", "a_seg_probabilities.nii.gz"),
        ("b", "b_probabilities.nii.gz"),
    ]


def test_more_processes_write_the_same_table(folders):
    assert evaluate(folders, "--out", folders / "one") == 0
    assert evaluate(folders, "--out", folders / "two", "--workers", "2") == 0
    tables = [(folders / name / "per_case.csv").read_bytes() for name in ("one", "two")]
    assert tables[0] == tables[1]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI's own call
def test_a_real_patient_agrees_with_monai(real_data, tmp_path):
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    case_id = "BraTS2021_01482"
    reference = nib.load(real_data / "brats2021" / case_id / f"{case_id}_seg.nii.gz")
    labels = np.asarray(reference.dataobj).astype(np.uint8)
    shifted = np.roll(labels, (2, -1), axis=(0, 2))
    write(tmp_path / f"{case_id}_seg.nii.gz", shifted, reference.affine)
    paths = ("--predictions", tmp_path, "--references", real_data / "brats2021")
    assert cli.main(["evaluate", *map(str, paths), "--allow_missing", "--out", str(tmp_path)]) == 0
    (row,) = read_csv(tmp_path / "per_case.csv")
    masks = [torch.from_numpy(array == 4)[None, None] for array in (shifted, labels)]
    surface = compute_surface_dice(*masks, [1.0], True, spacing=(1.0,) * 3, use_subvoxels=True)
    assert row["nsd/ET"] == pytest.approx(float(surface), rel=1e-6)
    distance = compute_hausdorff_distance(*masks, include_background=True, percentile=95)
    assert row["hd95/ET"] == pytest.approx(float(distance), rel=1e-5)
    overlap = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert row["dice/ET"] == pytest.approx(float(overlap), rel=1e-6)
