"""Provenance of scores: the data of a run, and whether its paper's numbers apply to it."""

import pytest

from backbones.sam.variants import RANDOM_BASE, UNKNOWN_BASE, VARIANTS
from datamodules.nifti.headers import SYNTHETIC_TRAINING
from evaluation.tables.per_case import write_csv
from studies.runs.run import run_at
from studies.scores.provenance import is_as_published, provenance_of
from studies.scores.tested import read_scores, table_of_run
from tests.studies.commands.test_compare import run, scored


@pytest.mark.parametrize(
    ("data", "command", "expected", "synthetic"),
    [
        ("phantom", [], "embedded phantom (SYNTHETIC), ab12", True),
        ("cohorts/BraTS2018", [], "BraTS2018 (brats2018), ab12", False),  # of a YAML, or an option
        ("cohorts/simulated", [], "simulated (brats2018, SYNTHETIC), ab12", True),
        (None, ["--data.init_args.root", "cohorts/own"], "own (brats2018), ab12", False),
        (None, ["--data.root=cohorts/own"], "own (brats2018), ab12", False),
        (None, [], "folder not recorded, ab12", False),
    ],
)
def test_data_is_what_the_run_was_configured_with(tmp_path, data, command, expected, synthetic):
    if data == "cohorts/simulated":
        data = tmp_path / data
        data.mkdir(parents=True)
        (data / "SYNTHETIC.txt").touch()
    home = run(
        tmp_path,
        "fusion",
        "f0",
        scored(),
        data=data,
        split={"layouts": ["brats2018"]},
        command=["lightning", "fit", "--config", "x.yaml", *command],
    )
    inside = home / "variants" / "without-t1" / "per_case.csv"
    write_csv(scored(), inside)
    for table in (home / "per_case.csv", inside):
        found = provenance_of([table_of_run(run_at(home), table, read_scores(table))])
        assert found.cohort.startswith(expected)
        assert found.synthetic is synthetic


@pytest.mark.parametrize(
    ("words", "overlays", "cited"),
    [
        ([], [], True),
        (["--config", "experiments/scale/brats3d.yaml"], ["brats3d"], True),
        (["--config", "experiments/scale/slices2d.yaml", "--data.fold", "1"], ["slices2d"], True),
        (["--model.init_args.size=base", "--model.optimizer.init_args.lr", "1"], [], True),
        (["--config", "experiments/scale/dice_ce.yaml"], ["dice_ce"], False),
        (["--model.head.init_args.heads", "2"], [], False),
        (["--model.class_path", "mine.Model"], [], False),
        (["--config", "mine.yaml"], ["mine"], False),
        (["--config", "lost.yaml"], ["lost"], False),
        (None, ["unknown"], False),
    ],
)
def test_a_papers_numbers_belong_to_its_own_system(tmp_path, monkeypatch, words, overlays, cited):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("model: {init_args: {head: {class_path: mine.Head}}}\n")
    command = ["lightning", "fit", "--config", "experiments/fusion.yaml", *(words or [])]
    manifest = {"overlays": overlays, **({} if words is None else {"command": command})}
    assert is_as_published(manifest) is cited


def test_three_regions_of_the_2d_study_are_not_the_papers_one():
    scores = {"val/dice/WT": 0.8}
    command = ["lightning", "fit", "--config", "experiments/sam_adapter.yaml"]
    manifest = {"command": command, "per_slice": True, "scores": scores}
    assert is_as_published(manifest)
    assert not is_as_published({**manifest, "scores": {**scores, "val/dice/TC": 0.7}})


@pytest.mark.parametrize(
    ("data", "place", "stated"),
    [
        ("phantom", "external-12345678", True),
        ("phantom", "without-t1", False),  # scored on phantoms too
        ("cohorts/BraTS2018", "external-12345678", False),
    ],
)
def test_a_system_that_saw_phantoms_only_is_named_beside_scores_of_others(
    tmp_path, data, place, stated
):
    home = run(tmp_path, "fusion", "f0", scored(), data=data)
    table = home / place / "per_case.csv"
    write_csv(scored(), table)
    found = provenance_of([table_of_run(run_at(home), table, read_scores(table))])
    remarks = [one for one in found.remarks if one.startswith(SYNTHETIC_TRAINING)]
    assert bool(remarks) is stated


@pytest.mark.parametrize(
    "remark",
    [
        VARIANTS["lite_medsam"].remark,
        f"frozen base mobile_sam: {RANDOM_BASE}",
        f"frozen base vit_b: pretrained, /a/b.pth{UNKNOWN_BASE}",
    ],
)
def test_a_base_that_makes_scores_doubtful_is_named(tmp_path, remark):
    runs = []
    for name, remarks in (("adapter", ["frozen base", remark]), ("flair", [remark]), ("unet", [])):
        home = run(tmp_path, name, "f0", scored(), remarks=remarks)
        table = home / "per_case.csv"
        runs.append(table_of_run(run_at(home), table, read_scores(table)))
    assert f"adapter, flair: {remark}" in provenance_of(runs).remarks
    assert not any(remark in one for one in provenance_of(runs[2:]).remarks)


def test_a_training_that_found_a_region_nowhere_is_named_with_its_seed(tmp_path):
    runs = []
    for seed, dice in enumerate([(0.0, 0.0), (0.0, 0.2), (1.0, 1.0), (1.0, 0.0)]):
        cases = [{"case_id": str(place), "WT": 0.5, "ET": one} for place, one in enumerate(dice)]
        home = run(tmp_path, "unet", f"f{seed}", scored(), validation_cases=cases, seed=seed)
        table = home / "per_case.csv"
        runs.append(table_of_run(run_at(home), table, read_scores(table)))
    (found,) = (one for one in provenance_of(runs).remarks if "failed" in one)
    assert found.endswith("in no validation patient: unet, seed 0 (ET); unet, seed 3 (ET)")
    assert not any("failed" in one for one in provenance_of(runs[1:3]).remarks)
