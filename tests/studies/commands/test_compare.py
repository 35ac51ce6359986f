"""`lightning compare` on run folders written by hand: finding, output, files, refusals."""

import csv
import json
import re

import pytest
import yaml

import cli
from evaluation.tables.per_case import write_csv
from outputs import LEDGER

COHORT = "ab12" * 16


def scored(shift=0.0, count=8, **more):
    return [
        {
            "case_id": f"p{index}",
            "dice/WT": round(0.5 + 0.03 * index + shift, 4),
            "dice/ET": round(0.4 + 0.03 * index + shift, 4),
            "hd95/WT": round(12.0 - index - 20 * shift, 4),
            **more,
        }
        for index in range(count)
    ]


def run(
    folder, experiment, run_id, rows, when="2026-01-01", split=None, data="phantom", **manifest
):
    """Write a tested run as `lightning test` leaves it; data is its folder, phantom for none."""
    home = folder / "runs" / experiment / run_id
    (home / "checkpoints").mkdir(parents=True)
    (home / "checkpoints" / "best.ckpt").write_bytes(b"x")
    known = {
        "status": "finished",
        "experiment": experiment,
        "id": run_id,
        "overlays": [],
        "seed": 0,
        "cohort": COHORT,
        "parameters": {"all": 1000, "trained": 10},
        "finished_at": when,
        "versions": {"torch": "2.13.0"},
    }
    (home / "manifest.json").write_text(json.dumps(known | manifest))
    if data is not None:
        root = None if data == "phantom" else str(data)
        config = {"data": {"class_path": "X", "init_args": {"root": root}}}
        (home / "config.yaml").write_text(yaml.safe_dump(config))
    tested = [row.get("case_id") for row in rows or []]
    stored = {
        "train": ["t"],
        "val": ["v"],
        "test": tested,
        "protocol": "default",
        "source": "70/10/20, seed 0",
        "patients": {case: case for case in tested},
        "hashes": {case: f"hash of {case}" for case in tested},
    }
    (home / "split.json").write_text(json.dumps(stored | (split or {})))
    if rows is not None:
        write_csv(rows, home / "per_case.csv")
    return home


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "dynunet", "aaaaaa000000", scored())
    run(tmp_path, "fusion", "bbbbbb000000", scored(0.01), when="2025-01-01")
    run(tmp_path, "fusion", "cccccc000000", scored(0.1))
    return tmp_path


def test_a_score_that_one_system_lacks_is_named(place, undrawn, capsys):
    rows = [{key: value for key, value in row.items() if key != "dice/ET"} for row in scored()]
    write_csv(rows, place / "less.csv")
    _, out, _ = compare(capsys, "fusion", "less.csv")
    assert "left out, less without it: dice/ET" in out


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the picture out in tests of other parts."""

    def draw(systems, columns, reference, path, title):
        path.write_bytes(b"picture")

    monkeypatch.setattr("studies.commands.compare.comparison_png", draw)


def compare(capsys, *words):
    status = cli.main(["compare", *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refused(capsys, *words):
    status, out, err = compare(capsys, *words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_newest_runs_side_by_side_with_files(place, capsys):
    status, out, _ = compare(capsys, "dynunet", "fusion")
    assert status == 0
    assert "0.705" in out  # the newer fusion: 0.605 + 0.1
    for words in ("70/10/20, seed 0", "rule brats", "torch 2.13.0", "8 patients", "published"):
        assert words in out
    assert out.count("torch 2.13.0") == 1  # in the terminal below the first table alone
    folder = place / "comparisons" / "dynunet-vs-fusion"
    assert sorted(file.name for file in folder.iterdir()) == [
        LEDGER,
        "comparison.csv",
        "comparison.md",
        "comparison.png",
        "comparison.tex",
        "statistics-dice.csv",
        "statistics-hd95.csv",
    ]
    for file in sorted(set(folder.iterdir()) - {folder / LEDGER}):
        assert file.name in out
    lines = list(csv.DictReader((folder / "statistics-dice.csv").open()))
    assert [line["difference"] for line in lines] == ["", "0.1", "", "0.1"]
    assert float(lines[1]["p"]) == pytest.approx(2 / 2**8)
    assert float(lines[1]["p_holm"]) == pytest.approx(4 / 2**8)


def test_the_same_command_writes_the_same_bytes(place, capsys):
    compare(capsys, "dynunet", "fusion", "--out", "one")
    compare(capsys, "dynunet", "fusion", "--out", "two")
    for file in (place / "one").iterdir():
        assert file.read_bytes() == (place / "two" / file.name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_every_way_to_name_a_run(place, capsys):
    write_csv(scored(0.2), place / "theirs.csv")
    words = [
        "runs/dynunet/aaaaaa000000",
        "fusion/bbbbbb000000",
        "runs/fusion",
        "nnU-Net=theirs.csv",
    ]
    status, out, _ = compare(capsys, *words, "--format", "csv", "--metrics", "dice")
    assert status == 0
    names = [line["system"] for line in csv.DictReader(out.partition("\n\n")[0].splitlines())]
    assert names == ["dynunet", "fusion bbbbbb", "fusion cccccc", "nnU-Net"]
    assert "known from their tables alone: nnU-Net" in out


@pytest.mark.usefixtures("undrawn")
def test_one_name_twice_is_one_system_averaged_within_a_patient(place, capsys):
    status, out, err = compare(
        capsys,
        "dynunet",
        "ours=fusion/bbbbbb000000",
        "ours=fusion/cccccc000000",
        "--format=csv",
        "--metrics=dice",
    )
    assert status == 0
    _, ours = csv.DictReader(out.partition("\n\n")[0].splitlines())
    assert float(ours["dice/WT/mean"]) == pytest.approx(0.605 + 0.055)
    assert ours["dice/WT/n"] == "8"
    assert "runs averaged within a patient: dynunet 1, ours 2" in out
    assert "comparison.png" in err


@pytest.mark.usefixtures("undrawn")
def test_formats_print_nothing_but_the_tables(place, capsys):
    _, out, err = compare(capsys, "dynunet", "fusion", "--format", "markdown")
    assert out == (place / "comparisons/dynunet-vs-fusion/comparison.md").read_text()
    assert "comparison.png" in err
    _, out, _ = compare(capsys, "dynunet", "fusion", "--format", "latex")
    assert out == (place / "comparisons/dynunet-vs-fusion/comparison.tex").read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_papers_protocol_is_said(place, capsys):
    split = {"protocol": "paper", "val": ["p0"], "source": "8:2, seed 0"}
    for name in ("late_fusion", "early_fusion"):
        run(place, name, "dddddd000000", scored(), split=split)
    _, out, _ = compare(capsys, "late_fusion", "early_fusion")
    assert "selected on these patients" in out
    assert "protocol paper" in out


@pytest.mark.usefixtures("undrawn")
def test_overlays_of_all_leave_the_names_and_training_that_differs_is_said(place, capsys):
    for name, epochs, overlays in (("segresnet", 3, ["long"]), ("late_fusion", 5, ["long", "ce"])):
        run(
            place,
            name,
            "eeeeee000000",
            scored(),
            overlays=overlays,
            determinants={"protocol": {"max_epochs": epochs, "precision": "32-true"}},
        )
    _, out, _ = compare(capsys, "segresnet", "late_fusion", "--reference", "late_fusion + ce")
    assert "segresnet " in out
    assert "trained unlike: max_epochs 3 / 5" in out


@pytest.mark.usefixtures("undrawn")
def test_shared_patients_of_different_tests(place, capsys):
    run(place, "segresnet", "ffffff000000", scored(0.2, count=6))
    sentence = refused(capsys, "dynunet", "segresnet")
    assert "p6, p7 only in the scores of dynunet" in sentence
    status, out, _ = compare(capsys, "dynunet", "segresnet", "--allow_different_patients", "true")
    assert status == 0
    assert "only the patients that all were tested on; 2 left out" in out
    assert "6 patients" in out


def test_another_cohort_is_refused_unless_the_images_are_the_same(place, capsys):
    run(place, "segresnet", "ffffff000000", scored(0.2), cohort="cd34" * 16)
    assert "ab12ab12ab12 and cd34cd34cd34" in refused(capsys, "dynunet", "segresnet")
    allow = ("--allow_different_patients", "true")
    assert compare(capsys, "dynunet", "segresnet", *allow)[0] == 0
    hashes = {f"p{index}": "other" for index in range(8)}
    run(place, "late_fusion", "ffffff000000", scored(), cohort="ef56", split={"hashes": hashes})
    assert "other images under the same names" in refused(capsys, "dynunet", "late_fusion", *allow)


def test_a_table_from_elsewhere_does_not_hide_that_the_others_differ(place, capsys):
    write_csv(scored(), place / "theirs.csv")
    run(place, "odd", "999999000000", scored(empty_rule="nan"))
    sentence = refused(capsys, "theirs.csv", "dynunet", "odd")
    assert "dynunet and odd score empty regions by different rules" in sentence


@pytest.mark.usefixtures("undrawn")
def test_time_points_of_a_table_from_elsewhere_are_joined_to_their_patient(place, capsys):
    patients = {f"p{index}": f"patient{index // 2}" for index in range(8)}
    run(place, "segresnet", "ffffff000000", scored(), split={"patients": patients})
    write_csv(scored(0.1), place / "theirs.csv")
    status, out, _ = compare(capsys, "segresnet", "theirs.csv")
    assert status == 0
    assert "4 patients" in out


@pytest.mark.usefixtures("undrawn")
def test_an_external_test_inside_a_run(place, capsys):
    for name in ("dynunet/aaaaaa000000", "fusion/cccccc000000"):
        write_csv(scored(count=5), place / "runs" / name / "external-12345678" / "per_case.csv")
    words = [
        f"runs/{name}/external-12345678" for name in ("dynunet/aaaaaa000000", "fusion/cccccc000000")
    ]
    status, out, _ = compare(capsys, *words)
    assert status == 0
    assert "cohort external-12345678" in out
    assert "protocol is external" in refused(capsys, words[0], "fusion")


@pytest.mark.usefixtures("undrawn")
def test_a_renamed_ablation_has_no_published_numbers(place, capsys):
    words = ["lightning", "fit", "--config", "fusion.yaml", "--model.head.init_args.heads=2"]
    run(place, "segresnet", "eeeeee000000", scored(), command=words)
    _, out, _ = compare(capsys, "fusion", "ours=segresnet", "--format", "csv")
    fusion, ours = csv.DictReader(out.partition("\n\n")[0].splitlines())
    assert fusion["published/dice/WT"] == "0.90267"
    assert ours["published/dice/WT"] == ""


@pytest.mark.usefixtures("undrawn")
def test_other_examinations_of_the_same_patients_are_said(place, capsys):
    patients = {"p1": "p0", "p3": "p2", **{case: case for case in ("p0", "p2")}}
    run(place, "segresnet", "ffffff000000", scored(count=4), split={"patients": patients})
    write_csv([row for row in scored(0.1, count=4) if row["case_id"] != "p3"], place / "theirs.csv")
    status, out, _ = compare(capsys, "segresnet", "theirs.csv")
    assert status == 0
    assert "cases that not all have: segresnet 1" in " ".join(out.split())


@pytest.mark.usefixtures("undrawn")
def test_tables_of_slices_name_the_rule_of_slices_and_each_its_data_once(place, capsys):
    rows = [{"case_id": f"p{i}", "slices/dice/WT": 0.5, "slices/hd95/WT": 9.0} for i in range(8)]
    for name in ("transunet", "swin_unet"):
        run(place, name, "dddddd000000", rows, per_slice=True)
    assert compare(capsys, "transunet", "swin_unet", "--format", "csv")[0] == 0
    folder = place / "comparisons" / "transunet-vs-swin_unet"
    for name in ("comparison.csv", "statistics-slices-dice.csv"):
        notes = [line["notes"] for line in csv.DictReader((folder / name).open())]
        assert all("empty regions: slices empty in both: Dice 1" in note for note in notes)
        assert all("the slice's diagonal (rule brats)" in note for note in notes)
        assert "373.13" not in notes[0]
        assert notes[0].count("data: embedded phantom") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": {"protocol": "paper"}}, "protocol is default in .* and paper in"),
        ({"per_slice": True}, "2D or 3D is 3D in .* and 2D in"),
        ({"rows": scored(empty_rule="nan")}, r"different rules \(brats and nan\)"),
        ({"rows": None}, r"was not tested yet: run `lightning test --ckpt_path .*best\.ckpt`"),
        ({"status": "running"}, "is not finished"),
        ({"rows": [{"case_id": "p0", "dice/WT": 88.0}]}, "share between 0 and 1"),
        ({"rows": [{"case_id": "p0", "dice/WT": "high"}]}, "'high' in dice/WT of p0"),
        ({"rows": [{"case_id": "p0", "hd95/WT": -1.0}]}, "no negative mm"),
        ({"rows": [*scored(), *scored()]}, "patient p0 twice"),
        ({"rows": [{"case_id": "p0", "volume_ml/WT": 3.0}]}, "no column with scores"),
        ({"rows": [{"name": "p0", "dice/WT": 0.5}]}, "is no table of scores"),
        ({"rows": []}, "is no table of scores"),
        ({"rows": [{"case_id": "p0", "nsd/TC": 0.5}]}, "no Dice and no HD95 of one region"),
    ],
)
def test_what_cannot_be_compared_is_refused(place, capsys, change, sentence):
    if change.get("rows") and "nsd/TC" in change["rows"][0]:
        write_csv([{"case_id": "p0", "dice/WT": 0.5}], place / "one.csv")
        write_csv(change["rows"], place / "two.csv")
        words = ["one.csv", "two.csv"]
    else:
        run(place, "odd", "999999000000", **{"rows": scored(), **change})
        words = ["dynunet", "odd/999999000000"]
    assert re.search(sentence, refused(capsys, *words))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dynunet"], "name at least two systems"),
        (["a=dynunet", "a=fusion"], "name at least two systems"),
        (["dynunet", "nothing"], "no finished run 'nothing'.*dynunet, fusion"),
        (["dynunet", "runs/dynunet"], "named twice"),
        (["dynunet", "b="], "NAME=RUN"),
        (["dynunet", "fusion", "--reference", "x"], "one of dynunet, fusion"),
        (["dynunet", "fusion", "--metrics", "nsd"], "'nsd'.*dice, hd95"),
        (["dynunet", "fusion", "--out", "taken"], "taken is a file"),
        (["dynunet", "fusion", "--out", "taken/below"], "taken/below cannot be written"),
        (["dynunet", "broken.csv"], r"broken\.csv is damaged"),
    ],
)
def test_a_wrong_command_is_told_in_one_sentence(place, capsys, words, sentence):
    (place / "taken").write_text("")
    (place / "broken.csv").write_bytes(b"case_id,dice/WT\np0,0.5,extra\xff\x00\n")
    assert re.search(sentence, refused(capsys, *words))


def test_damaged_files_of_a_run_are_named(place, capsys):
    home = place / "runs" / "dynunet" / "aaaaaa000000"
    (home / "split.json").write_text("{")
    assert "split.json" in refused(capsys, "dynunet", "fusion")
    (home / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in refused(capsys, str(home), "fusion")


def test_files_of_the_user_are_refused_and_its_own_are_written_again(place, undrawn, capsys):
    out = place / "comparisons" / "dynunet-vs-fusion"
    out.mkdir(parents=True)
    (out / "comparison.tex").write_text("mine")
    assert cli.main(["compare", "dynunet", "fusion"]) == 2
    printed = capsys.readouterr().err
    assert "holds the file comparison.tex that this program did not write" in printed
    assert list(out.iterdir()) == [out / "comparison.tex"]
    assert cli.main(["compare", "dynunet", "fusion", "--out", "new"]) == 0  # the advice
    assert cli.main(["compare", "dynunet", "fusion", "--out", "new"]) == 0
    (place / "new" / "comparison.csv").write_text("edited")
    capsys.readouterr()
    assert cli.main(["compare", "dynunet", "fusion", "--out", "new"]) == 2
    assert "comparison.csv that was changed after" in capsys.readouterr().err
    assert (place / "new" / "comparison.csv").read_text() == "edited"
