"""`lightning report` on runs written by hand: content, omissions, refusals."""

import json
import re
import struct

import numpy as np
import pytest

import cli
import studies.commands.report
from evaluation.figures.reliability import write_calibration
from evaluation.metrics.calibration import measure_reliability
from evaluation.tables.per_case import write_csv
from outputs import Outputs
from studies.commands.report import write_report
from studies.training.segment_again import choose_cases
from tests.studies.commands.test_compare import run, scored

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 8, 8) + bytes(9)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "dynunet", "aaaaaa000000", scored())
    run(tmp_path, "fusion", "bbbbbb000000", scored(0.1))
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the pictures out in tests of other parts."""

    def nothing(*_, **__):
        return []

    monkeypatch.setattr("studies.commands.report.draw_distributions", nothing)


def report(capsys, *words):
    status = cli.main(["report", *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refused(capsys, *words):
    status, out, err = report(capsys, *words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_page_of_two_runs_says_what_it_lacks(place, capsys):
    status, out, _ = report(capsys, "dynunet", "fusion", "--out", "new/page.html")
    assert status == 0
    assert "new/page.html" in out
    text = (place / "new" / "page.html").read_text()
    for words in (
        "70/10/20, seed 0",
        "rule brats",
        "torch 2.13.0",
        "published, other data",
        "0.705",
        "median difference",
        "Not in the pictures: dynunet; ",
        "best.ckpt",
        "Overlays and viewer are left out",
        "Without calibration: dynunet, fusion; `lightning test` writes calibration.csv",
        "Without learning curves",
    ):
        assert words in text
    assert text.count('<tr><td class="text">p') == 16
    assert 'id="viewer-box"' not in text
    assert text.count("data:image/png") == 2  # Dice and HD95


@pytest.mark.usefixtures("undrawn")
def test_one_run_alone_has_curves_and_calibration(place, capsys):
    home = place / "runs" / "fusion" / "bbbbbb000000"
    (home / "checkpoints" / "best.ckpt").unlink()
    epochs = [{"epoch": e, "train/loss": 1 / (e + 1), "val/dice/WT": 0.5} for e in (0, 1)]
    write_csv([*epochs, {"epoch": 2, "train/loss": "half a nu"}], home / "metrics.csv")
    probability = np.array([0.9, 0.9, 0.2, 0.2, 0.2])
    counts = measure_reliability(probability, np.array([True, True, True, False, False]))
    outputs = Outputs(home, "--out")
    write_calibration({"p0": {"WT": counts}, "elsewhere": {"WT": counts}}, outputs, "fusion")
    # of the reported patient alone: (2 x 0.1 + |1 - 0.6|) / 5
    assert report(capsys, "runs/fusion/bbbbbb000000")[0] == 0
    text = (place / "report.html").read_text()
    assert re.search(r"ECE ↓.*<td>0\.1200</td><td>0\.000</td>", text, re.DOTALL)
    assert text.count("data:image/png") == 2
    assert "there is no checkpoint" in text
    assert "median difference" not in text
    assert "Without" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_test_inside_a_run_has_the_curves_of_the_run(place, capsys):
    home = place / "runs" / "fusion" / "bbbbbb000000"
    write_csv([{"epoch": 0, "train/loss": 1.0, "val/dice/WT": 0.5}], home / "metrics.csv")
    for name in ("external-12345678", "rule-nan"):
        write_csv(scored(), home / name / "per_case.csv")
        words = [str(home / name / "per_case.csv"), "--pictures", "false"]
        assert report(capsys, *words)[0] == 0
        assert "Without learning curves" not in (place / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_rows_of_several_runs_are_told_apart_and_what_tables_share_is_told_once(place, capsys):
    own = scored(0.2, **{"nsd/WT": 0.5, "nsd/ET": 0.6})
    for number in (1, 2):
        run(place, "zhou2022", f"seed{number}00000000", own, seed=number)
    own[0]["nsd/WT"] = float("nan")
    run(place, "akbar2022", "cccccc000000", own)
    words = ["z=zhou2022/seed100000000", "z=zhou2022/seed200000000", "akbar2022"]
    assert report(capsys, *words, "--pictures", "false")[0] == 0
    text = (place / "report.html").read_text()
    rows = re.findall(r'<tr><td class="text">p0</td>.*?<td class="text">(.*?)</td><td d', text)
    assert rows == [
        'z</td><td class="text">seed10, seed 1',
        'z</td><td class="text">seed20, seed 2',
        'akbar2022</td><td class="text">',
    ]
    further = text.partition("<h3>Further measures</h3>")[2].partition('id="statistics"')[0]
    head, whole, enhancing = further.split("<figcaption>")
    assert "nsd/WT: patients without a score, left out: akbar2022 1" in whole
    assert "without a score" not in head + enhancing
    shared = "Holm over all systems and regions of one metric in this table"
    assert "For every table below" in head
    assert (head.count(shared), (whole + enhancing).count(shared)) == (1, 0)
    for sentence in (
        "data: embedded phantom",
        "empty regions: ",
        "versions: ",
        "training seeds 0, 1, 2",
    ):
        assert text.count(sentence) == 1, sentence


@pytest.mark.usefixtures("undrawn")
def test_a_page_that_is_too_large_loses_what_is_hidden_at_first(place, capsys, monkeypatch):
    home = run(place, "zhou2022", "cccccc000000", scored(**{"nsd/WT": 0.123, "nsd/ET": 0.5}))
    words = [str(home), "--pictures", "false"]
    report(capsys, *words)
    whole = (place / "report.html").read_text()
    assert 'data-v="0.123"' in whole
    assert "left out: else the page" not in whole
    monkeypatch.setattr("studies.commands.report.MOST_BYTES", len(whole.encode()) - 1)
    report(capsys, *words)
    text = (place / "report.html").read_text()
    assert "Further measures of the table of patients are (per_case.csv has them) left out" in text
    assert 'data-v="0.123"' not in text
    assert 'data-v="0.5"' in text
    assert "The viewer is left out" not in text


@pytest.mark.usefixtures("undrawn")
def test_real_patients_have_no_badge_and_phantoms_have_one(place, capsys):
    run(place, "zhou2022", "cccccc000000", scored(), data="cohorts/BraTS2018")
    for name, marked in (("zhou2022", False), ("fusion", True)):
        assert report(capsys, name, "--pictures", "false")[0] == 0
        text = (place / "report.html").read_text()
        assert ('<span class="badge">SYNTHETIC' in text) is marked


@pytest.mark.usefixtures("undrawn")
def test_the_reference_of_a_benchmark_can_be_chosen(place, capsys, monkeypatch):
    asked = []

    def recorded(function):
        def call(*arguments, **given):
            asked.append(given)
            return function(*arguments)

        return call

    for name in ("benchmark_systems", "make_tables"):
        monkeypatch.setattr(
            f"studies.commands.report.{name}", recorded(getattr(studies.commands.report, name))
        )
    folder = str(benchmark(place))
    assert report(capsys, folder, "--pictures", "false", "--reference", "our dynunet")[0] == 0
    assert asked == [{"reference": "our dynunet"}] * 2
    asked.clear()
    assert report(capsys, folder, "--pictures", "false")[0] == 0
    assert asked == [{}] * 2


def benchmark(place, **changes):
    def cell(name, run_id, variant=""):
        folder = f"runs/{name}/{run_id}"
        return {
            "system": f"our {name}",
            "experiment": name,
            "fold": "",
            "seed": 0,
            "variant": variant,
            "run": f"{name}/{run_id}",
            "folder": folder,
            "per_case": f"{folder}/{f'{variant}/' if variant else ''}per_case.csv",
        }

    plan = {
        "name": "two systems",
        "file": "two.yaml",
        "reference": "our fusion",
        "tables": [{"title": "Table 7", "metrics": ["dice"], "published": True}],
        "differences": {"data.split_by": {"our dynunet": "patient"}},
        "allow_different": [],
        "cells": [
            cell("dynunet", "aaaaaa000000"),
            cell("fusion", "bbbbbb000000"),
            cell("fusion", "bbbbbb000000", "without-t1"),
        ],
    }
    folder = place / "benchmarks" / "two"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan | changes))
    return folder


@pytest.mark.usefixtures("undrawn")
def test_a_benchmark_has_its_own_tables_and_names_what_is_open(place, capsys):
    folder = benchmark(place)
    assert report(capsys, str(folder), "--pictures", "false")[0] == 0
    text = (folder / "report.html").read_text()
    for words in (
        "<h1>two systems",
        "Table 7",
        "against our fusion",
        "Not tested, so left out: our fusion (seed 0, without-t1).",
        "settings that differ: data.split_by",
    ):
        assert words in text
    assert "Not in the pictures" not in text


@pytest.mark.parametrize(("systems", "pictures"), [(7, 2), (8, 3)])
def test_with_many_systems_a_region_is_a_picture_of_its_own(place, monkeypatch, systems, pictures):
    shown = []
    monkeypatch.setattr(
        "studies.commands.report.comparison_png",
        lambda rows, columns, reference, file, family: (
            shown.append(([c.key for c in columns], [c.key for c in family])),
            file.write_bytes(PNG),
        ),
    )
    for number in range(systems):
        run(place, "many", f"s{number}", scored(0.01 * number))
    names = [f"runs/many/s{number}" for number in range(systems)]
    write_report(names, place / "page.html", pictures=False)
    assert len(shown) == pictures
    assert shown[0] == (
        (["dice/WT"] if systems == 8 else ["dice/WT", "dice/ET"]),
        ["dice/WT", "dice/ET"],
    )
    assert shown[-1][0] == ["hd95/WT"]


@pytest.mark.usefixtures("undrawn")
def test_ways_of_testing_are_a_table_and_a_picture(place, capsys):
    wanted = {"title": "Subsets", "metrics": ["dice"], "variants": ["without-t1"]}
    folder = benchmark(place, tables=[wanted])
    table = place / "runs" / "fusion" / "bbbbbb000000" / "without-t1" / "per_case.csv"
    table.parent.mkdir()
    write_csv(scored(), table)
    assert report(capsys, str(folder), "--pictures", "false")[0] == 0
    text = (folder / "report.html").read_text()
    assert '<th scope="row">without-t1' in text
    assert "Subsets: means; bold: best system of a row; *: differs significantly from" in text
    statistics = text.partition('id="statistics"')[2].partition('id="distributions"')[0]
    assert re.findall("<figcaption>(.*?)</figcaption>", statistics) == [
        "Dice ↑, whole volumes, against our fusion",
        "HD95 (mm) ↓, whole volumes, against our fusion",
        "Subsets: Dice ↑, whole volumes, against as trained",
    ]
    assert text.count("data:image/png") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_benchmark_with_a_failed_fold_compares_the_patients_all_have(place, capsys):
    write_csv(scored(count=6), place / "runs" / "dynunet" / "aaaaaa000000" / "per_case.csv")
    folder = benchmark(place)
    assert report(capsys, str(folder), "--pictures", "false")[0] == 0
    text = (folder / "report.html").read_text()
    assert "Compared are the 6 patients" in text
    assert text.count('<tr><td class="text">p') == 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["untested"], "was not tested yet: run `lightning test"),
        (["nothing"], "no finished run 'nothing'"),
        (["benchmarks/dual_fusion"], "no benchmark yet.*experiments/benchmarks/dual_fusion.yaml`"),
        (["fusion", "benchmarks/mine/"], "benchmarks/mine holds .*`lightning benchmark FILE`"),
        (["experiments/benchmarks/mine.yaml"], ": benchmarks/mine holds no benchmark yet"),
        (["experiments/benchmarks/two.yaml"], "its folder, `lightning report benchmarks/two`"),
        (["broken.csv"], r"broken\.csv is damaged"),
        (["dynunet", "fusion", "--reference", "x"], "one of dynunet, fusion"),
        (["fusion", "--out", "."], r"--out \. is a folder"),
        (["fusion", "--out", "taken/below/page.html"], "below/page.html cannot be written"),
        (["benchmarks/two", "fusion"], "report it alone"),
        (["benchmarks/two", "--runs_dir", "runs"], "--runs_dir has no effect beside"),
        (["benchmarks/two"], "no tested system yet.*run `lightning benchmark two.yaml`"),
        (["benchmarks/old"], "no plan of a benchmark, or one of another version"),
    ],
)
def test_a_wrong_command_is_told_in_one_sentence(place, capsys, words, sentence):
    (place / "taken").write_text("")
    (place / "broken.csv").write_bytes(b"case_id,dice/WT\np0,0.5,extra\xff\x00\n")
    run(place, "untested", "dddddd000000", None)
    benchmark(place, cells=[])
    (place / "benchmarks" / "old").mkdir()
    (place / "benchmarks" / "old" / "plan.json").write_text('{"version": 99, "name": "x"}')
    assert re.search(sentence, refused(capsys, *words))
    assert not (place / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_damaged_calibration_is_named_and_the_rest_is_made(place, capsys):
    home = place / "runs" / "fusion" / "bbbbbb000000"
    (home / "calibration.csv").write_text("case_id,region,from\np0,WT,high\n")
    assert report(capsys, "fusion", "--pictures", "false")[0] == 0
    text = (place / "report.html").read_text()
    assert "calibration.csv is damaged" in text
    assert "Without calibration: fusion" in text


def test_worst_median_and_best_go_by_the_mean_over_regions_and_systems():
    def rows(*values):
        return [{"case_id": f"p{i}", "dice/WT": w, "dice/ET": e} for i, (w, e) in enumerate(values)]

    nan = float("nan")
    one = rows((0.9, 0.1), (0.6, nan), (0.7, 0.7), (0.2, 0.2), (nan, nan))
    two = rows((0.9, 0.9), (0.6, 0.6), (0.6, 0.6), (0.3, 0.3), (nan, nan))
    # means 0.7, 0.6, 0.65, 0.25; the fifth has none
    assert choose_cases({"a": one, "b": two}) == {"p3": "worst", "p1": "median", "p0": "best"}
    assert choose_cases({"a": one[:2]}) == {"p0": "worst", "p1": "best"}
    assert choose_cases({"a": one[:1]}) == {"p0": "only"}
    assert choose_cases({"a": [{"case_id": "p", "hd95/WT": 3.0}]}) == {}
    assert choose_cases({"a": [{"case_id": "p", "slices/dice/WT": 0.5}]}) == {"p": "only"}


def test_a_page_is_never_written_over_a_file_of_the_user(place, undrawn, capsys):
    (place / "report.html").write_text("mine")
    (place / "patient.nii.gz").write_bytes(b"image")
    words = ("dynunet", "fusion", "--pictures", "false")
    assert "report.html that this program did not write" in refused(capsys, *words)
    assert "expected a name that ends in .html" in refused(
        capsys, *words, "--out", "patient.nii.gz"
    )
    assert (place / "report.html").read_text() == "mine"
    assert (place / "patient.nii.gz").read_bytes() == b"image"
    assert report(capsys, *words, "--out", "ours.html")[0] == 0
    assert report(capsys, *words, "--out", "ours.html")[0] == 0
    (place / "ours.html").write_text("annotated")
    assert "ours.html that was changed" in refused(capsys, *words, "--out", "ours.html")
