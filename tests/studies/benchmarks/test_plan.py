"""Jobs of a benchmark: each training and shared stage once, for all folds and seeds."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from datamodules.splits import Split
from errors import InputError
from studies.benchmarks.benchmark_file import Benchmark, Entry
from studies.benchmarks.plan import make_plan
from studies.commands.benchmark import set_aside_other
from studies.jobs.graph import Variant, damage_of
from studies.runs.planning import Planner
from studies.settings.command_line import CommandLine

STAGES = {"fusion": ["dynunet.yaml", "segresnet.yaml"], "late": ["dynunet.yaml", "segresnet.yaml"]}


@pytest.fixture(autouse=True)
def _made_up_models(monkeypatch):
    monkeypatch.setattr(Planner, "rehearse", lambda *_: None)


class Data:
    def __init__(self, **settings):
        self.settings = settings
        self.split = Split(["p1"], ["p2"], ["p3", "p4"])

    def identity(self):
        return self.settings

    def fingerprint(self):
        return "cohort"

    def case_hashes(self):
        return {"p3": "3", "p4": "4"}


def parse(line):
    """Return the configuration that the options set, without a parser."""
    name = Path(line.configs[0]).stem
    given = {found: words[0].partition("=")[2] for found, words in line.options}
    data = {k.removeprefix("data."): v for k, v in given.items() if k.startswith("data.")}
    return {
        "model": {
            "class_path": name,
            "init_args": {"backbones": STAGES.get(name, []), "over": line.overlays},
        },
        "data": {"class_path": "D", "init_args": data},
        "trainer": {
            "max_epochs": given.get("trainer.max_epochs", "8"),
            "accelerator": "cpu",
            "precision": "bf16-mixed",
        },
        "seed_everything": int(given.get("seed_everything", 0)),
    }


@pytest.fixture
def planner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dynunet", "segresnet", "late", "fusion", "over"):
        Path(f"{name}.yaml").touch()
    made = Planner(parse, tmp_path / "runs")
    for name in ("prepare_cohort", "make_data"):
        monkeypatch.setattr(made, name, lambda spec: Data(**spec["init_args"]))
    return made


def benchmark(**changes):
    entries = [Entry(name, f"{name}.yaml") for name in ("dynunet", "late", "fusion")]
    return Benchmark("b", Path("b.yaml"), entries, "fusion", **changes)


def kinds(plan):
    return Counter((job.kind, job.run.experiment) for job in plan.graph.ordered())


def test_a_training_that_three_systems_need_is_one_job(planner):
    plan = make_plan(benchmark(), planner, CommandLine())
    names = ("dynunet", "segresnet", "late", "fusion")
    assert kinds(plan) == {
        **{("fit", name): 1 for name in names},
        **{("test", name): 1 for name in names if name != "segresnet"},
    }
    jobs = plan.graph.ordered()
    for place, job in enumerate(jobs):
        assert set(job.needs) <= {earlier.id for earlier in jobs[:place]}


def test_folds_seeds_and_variants_multiply(planner):
    variants = [Variant("without-t1", ("--data.drop=[t1]",))]
    settings = {"n_folds": 5, "folds": [0, 1, 2], "seeds": [0, 1], "variants": variants}
    plan = make_plan(benchmark(**settings), planner, CommandLine())
    assert kinds(plan)["fit", "segresnet"] == kinds(plan)["fit", "fusion"] == 3 * 2
    assert kinds(plan)["test", "fusion"] == 3 * 2 * 2
    assert len(plan.cells) == 3 * 3 * 2 * 2
    tables = {cell.test.table for cell in plan.cells}
    assert len(tables) == len(plan.cells)  # no test overwrites another
    own = [cell.test for cell in plan.cells if not cell.variant]
    assert all(test.table.parent == test.run.folder for test in own)
    written = json.loads(json.dumps(plan.to_dict([]), default=str))
    assert written["cells"][0]["fold"] == 0


def test_the_command_of_a_job_can_be_typed(planner, tmp_path):
    line = CommandLine.parse(["--config", "over.yaml", "--trainer.accelerator", "cpu"])
    plan = make_plan(benchmark(options=["--trainer.max_epochs=2"]), planner, line)
    training = plan.cells[0].training
    seeds = ["--seed_everything=0", "--data.seed=0"]
    assert training.words == [
        *["fit", "--config", "dynunet.yaml", "--config", "over.yaml", "--trainer.max_epochs=2"],
        *[*seeds, "--trainer.accelerator", "cpu", f"--runs_dir={tmp_path / 'runs'}"],
        "--trainer.precision=bf16-mixed",
    ]
    test = plan.cells[0].test
    assert test.words[:2] == ["test", "--ckpt_path"]
    assert test.words[-2:] == ["--trainer.accelerator", "cpu"]  # where it runs, nothing else


def test_a_test_goes_where_the_data_are_now_and_is_still_counted(planner):
    variants = [Variant("elsewhere", ("--data.root=/other",))]
    line = CommandLine.parse(["--data.root", "/new", "--data.batch_size", "2"])
    plan = make_plan(benchmark(variants=variants), planner, line)
    own, elsewhere = (cell.test for cell in plan.cells[:2])
    assert own.words[-2:] == ["--data.root", "/new"]
    assert own.patients() == {"p3", "p4"}
    assert elsewhere.words[-1] == "--data.root=/other"  # the last of two wins
    assert elsewhere.patients() == set()


def test_a_further_test_with_an_unknown_setting_is_refused_first(planner, monkeypatch):
    def strict(line):
        if any(name == "data.nonsuch" for name, _ in line.options):
            raise InputError("there is no data.nonsuch.")
        return parse(line)

    monkeypatch.setattr(planner, "parse", strict)
    variants = [Variant("odd", ("--rule=nan", "--data.nonsuch=3"))]
    with pytest.raises(InputError, match=r"b\.yaml: test odd: there is no data\.nonsuch"):
        make_plan(benchmark(variants=variants), planner, CommandLine())


def test_a_fault_in_a_systems_own_option_names_the_system(planner, monkeypatch):
    few = benchmark(allow_different=["data.train_patients"])
    few.entries[1] = replace(few.entries[1], options=("--data.train_patients=8",))
    sentences = {"8": "data.train_patients is 8: expected at most 4.", None: "no data."}

    def refused(spec, wrong):
        if spec["init_args"].get("train_patients") == wrong:
            raise InputError(sentences[wrong])
        return Data(**spec["init_args"])

    monkeypatch.setattr(planner, "prepare_cohort", partial(refused, wrong="8"))
    with pytest.raises(InputError, match=r"^b\.yaml: late: data\.train_patients is 8"):
        make_plan(few, planner, CommandLine())
    monkeypatch.setattr(planner, "prepare_cohort", partial(refused, wrong=None))
    with pytest.raises(InputError, match=r"^no data"):
        make_plan(few, planner, CommandLine())


def test_one_training_under_two_names_is_refused(planner):
    entries = [Entry("a", "late.yaml"), Entry("b", "late.yaml", options=("--data.split_seed=1",))]
    twins = Benchmark("b", Path("b.yaml"), entries, "a", allow_different=["data.split_seed"])
    make_plan(twins, planner, CommandLine())
    twins.entries = [Entry("a", "late.yaml"), Entry("b", "late.yaml")]
    with pytest.raises(InputError, match="a and b are the same training"):
        make_plan(twins, planner, CommandLine())


def test_results_of_other_runs_are_set_aside_and_kept(planner, tmp_path, capsys):
    folder = tmp_path / "benchmarks" / "b"

    def hold(plan):
        set_aside_other(folder, plan)
        plan.write(folder, [])

    small = make_plan(benchmark(), planner, CommandLine())
    hold(small)
    (folder / "results.csv").write_text("of the small")
    entries = [*benchmark().entries, Entry("segresnet", "segresnet.yaml")]
    grown = Benchmark("b", Path("b.yaml"), entries, "fusion")
    hold(make_plan(grown, planner, CommandLine()))
    assert (folder / "results.csv").read_text() == "of the small"
    assert not (folder / "earlier").exists()
    hold(make_plan(benchmark(), planner, CommandLine.parse(["--data.root=/large"])))
    (kept,) = (folder / "earlier").iterdir()
    assert (kept / "results.csv").read_text() == "of the small"
    assert len(json.loads((kept / "plan.json").read_text())["systems"]) == 4
    assert not (folder / "results.csv").exists()
    assert f"now in {kept}" in capsys.readouterr().out


GOOD = "case_id,dice/WT,empty_rule\np3,0.5,brats\np4,nan,brats\n"


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        (GOOD, ""),
        ("", "no table of scores"),
        ("case_id,empty_rule\np3,brats\np4,brats\n", "no column with scores"),
        (GOOD[:-8], "row 3 is broken"),
        (GOOD.replace("0.5", "0.5x"), "'0.5x' in dice/WT of p3"),
        (GOOD.replace("0.5", "85"), "a share between 0 and 1"),
        (GOOD.replace("p4", "p3"), "the patient p3 twice"),
        (GOOD + "p5,0.5,brats\n", "3 rows for 2 patients"),
        (GOOD.replace("p4,nan,brats\n", ""), "1 rows for 2 patients"),
        ("\x00" + GOOD, "per_case.csv is "),
    ],
)
def test_a_table_of_scores_is_whole_or_named(text, damage, tmp_path):
    (tmp_path / "per_case.csv").write_text(text)
    found = damage_of(tmp_path / "per_case.csv", {"p3", "p4"})
    assert (damage in found) if damage else (found == "")


def test_a_test_is_finished_when_its_table_is_whole_and_recorded(planner):
    plan = make_plan(benchmark(), planner, CommandLine())
    test = plan.cells[0].test
    assert not test.finished()
    test.table.parent.mkdir(parents=True)
    test.table.write_text(GOOD)
    assert not test.finished()  # killed before the manifest was written
    test.run.update_manifest(test_scores={})
    assert test.finished()
    test.table.write_text(GOOD[:40])
    assert not test.finished()


def test_results_are_one_long_table(planner, tmp_path):
    plan = make_plan(benchmark(seeds=[0, 1]), planner, CommandLine())
    for cell in plan.cells[:4]:
        cell.test.table.parent.mkdir(parents=True, exist_ok=True)
        cell.test.table.write_text(GOOD)
        cell.test.run.update_manifest(test_scores={})
    lines = plan.write_results(tmp_path).read_text().splitlines()
    head = "system,experiment,fold,seed,variant,run,case_id,dice/WT,empty_rule"
    assert lines[0] == head
    run = plan.cells[0].training.run
    assert lines[1] == f"dynunet,dynunet,,0,,dynunet/{run.id},p3,0.5,brats"
    assert len(lines) == 1 + 4 * 2
