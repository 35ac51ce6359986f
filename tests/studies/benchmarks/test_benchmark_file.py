"""Benchmark files: valid ones are read, others are refused in one sentence."""

from pathlib import Path

import pytest
import yaml

import cli
from errors import InputError
from studies.benchmarks.benchmark_file import read_benchmark
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / "experiments" / "benchmarks").glob("*.yaml"))
GOOD = {
    "reference": "fusion",
    "experiments": [
        "experiments/dynunet.yaml",
        {
            "file": "experiments/fusion.yaml",
            "overlays": ["experiments/scale/dice_ce.yaml"],
            "options": {"model.head.init_args.channels": 8, "data.augmentation": False},
        },
    ],
    "folds": 5,
    "seeds": [0, 1],
    "test": [{"name": "without-t1", "options": {"data.drop": ["t1"]}}],
    "tables": [
        {"title": "One", "experiments": ["dynunet"], "metrics": ["dice"], "regions": ["WT"]}
    ],
}


def write(folder, **changes):
    content = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / "mine.yaml")


def test_what_it_says(tmp_path):
    benchmark = read_benchmark(write(tmp_path))
    assert benchmark.name == "mine"
    assert benchmark.systems == ["dynunet", "fusion + dice_ce"]
    assert benchmark.reference == "fusion + dice_ce"
    assert (benchmark.n_folds, benchmark.folds, benchmark.seeds) == (5, [0, 1, 2, 3, 4], [0, 1])
    assert benchmark.entries[1].options == (
        "--model.head.init_args.channels=8",
        "--data.augmentation=false",
    )
    assert benchmark.variants[0].options == ('--data.drop=["t1"]',)


def test_some_of_the_folds(tmp_path):
    benchmark = read_benchmark(write(tmp_path, folds=[0, 3], n_folds=5))
    assert (benchmark.n_folds, benchmark.folds) == (5, [0, 3])
    benchmark = read_benchmark(write(tmp_path, folds=None))
    assert (benchmark.n_folds, benchmark.folds) == (None, [])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sedes": [0]}, "has the unknown key sedes: expected name, reference, experiments"),
        ({"experiments": ["experiments/unet.yaml"]}, "no configuration file experiments/unet.yaml"),
        ({"experiments": []}, "names no experiments"),
        ({"experiments": [{"label": "x"}]}, "expected a file or keys file, label"),
        ({"experiments": [{"file": "experiments/fusion.yaml", "lable": "x"}]}, "unknown key lable"),
        ({"experiments": ["experiments/fusion.yaml"] * 2}, "two systems called fusion"),
        ({"reference": "late"}, "reference is late, expected one of its systems: dynunet"),
        ({"overlays": ["experiments/scale/none.yaml"]}, "no configuration file"),
        ({"overlays": "experiments/scale/dice_ce.yaml"}, "overlays is .*, expected a list"),
        ({"options": ["data.x"]}, "options is .*, expected keys"),
        ({"folds": [0, 1]}, "expected folds: 5 or"),
        ({"folds": 0}, "another number from 2"),
        ({"folds": -1}, "another number from 2"),
        ({"folds": True}, "another number from 2"),
        ({"name": "../../x"}, "names a folder"),
        ({"seeds": [-1]}, "expected numbers from 0 to 4294967295"),
        ({"test": [{"name": "a/b", "options": {"data.drop": ["t1"]}}]}, "names a folder"),
        ({"test": [{"name": "a", "options": {"data.drop": ["t1"]}}] * 2}, "the test a twice"),
        ({"folds": [0, 0], "n_folds": 5}, "different whole numbers"),
        ({"seeds": ["a"]}, "different whole numbers"),
        ({"test": [{"name": "x"}]}, "expected keys name and options"),
        ({"tables": [{"experiments": []}]}, "expected keys title"),
        ({"tables": [{"title": "T", "metrics": ["accuracy"]}]}, "names accuracy under metrics"),
        ({"tables": [{"title": "T", "experiments": ["late"]}]}, "names late under experiments"),
        ({"tables": [{"title": "T", "scope": "voxels"}]}, "scope is voxels"),
        ({"tables": [{"title": "T", "published": "yes!"}]}, "published is yes!"),
        ({"train_patients": [2, 2]}, "train_patients is .* different whole numbers"),
        ({"train_patients": "many"}, "train_patients is .* different whole numbers"),
    ],
)
def test_one_sentence_for_the_rest(changes, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        read_benchmark(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", ""])
def test_no_mapping_at_all(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=r"is no YAML|holds no keys"):
        read_benchmark(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_ones_are_whole(file):
    benchmark = read_benchmark(str(file))
    assert benchmark.name == file.stem
    assert benchmark.tables
    # the embedded scale: one split, one seed; where each patient counts, leave-one-out
    assert benchmark.n_folds == (8 if file.stem == "few_real" else None)
    assert benchmark.seeds == ([0, 1, 2] if file.stem == "few_patients" else [0])
    assert f"lightning benchmark experiments/benchmarks/{file.name}" in file.read_text()


def test_few_exams_are_compared_by_equal_steps_over_the_same_numbers():
    benchmark = read_benchmark("experiments/benchmarks/few_patients.yaml")
    numbers = {}
    for entry in benchmark.entries:
        options = dict(word.removeprefix("--").split("=", 1) for word in entry.options)
        assert set(options) == {"data.train_patients"}
        numbers.setdefault(entry.line, []).append(int(options["data.train_patients"]))
    assert benchmark.options == ["--data.slices_per_epoch=64"]
    assert len(numbers) == 8
    assert all(found == [2, 4, 8, 16] for found in numbers.values())


def test_few_patients_are_compared_by_equal_steps_over_the_same_numbers():
    benchmark = read_benchmark("experiments/benchmarks/few_real.yaml")
    lines = {}
    for entry in benchmark.entries:
        options = dict(word.removeprefix("--").split("=", 1) for word in entry.options)
        number = int(options["data.train_patients"])
        assert entry.system == f"{entry.line}, {number}"
        assert options.get("data.phantoms") == (None if number else "1")
        assert not any(name.startswith("trainer.") for name in options)
        lines.setdefault(entry.line, []).append(number)
    assert list(lines.values()) == [[0, 1, 2, 4, 6]] * 2


def test_systems_are_crossed_with_numbers_of_patients(tmp_path):
    experiments = [
        "experiments/sam_adapter.yaml",
        {"file": "experiments/transunet.yaml", "label": "TransUNet", "line": "a U-Net"},
    ]
    changes = {"experiments": experiments, "reference": "sam_adapter, 4", "tables": []}
    benchmark = read_benchmark(write(tmp_path, **changes, train_patients=[2, 4]))
    assert [(one.system, one.line, one.options) for one in benchmark.entries] == [
        ("sam_adapter, 2", "sam_adapter", ("--data.train_patients=2",)),
        ("sam_adapter, 4", "sam_adapter", ("--data.train_patients=4",)),
        ("TransUNet, 2", "a U-Net", ("--data.train_patients=2",)),
        ("TransUNet, 4", "a U-Net", ("--data.train_patients=4",)),
    ]
    assert benchmark.allow_different == ["data.train_patients"]
    experiments[0] = {"file": experiments[0], "options": {"data.train_patients": 3}}
    with pytest.raises(InputError, match=r"has data\.train_patients of its own"):
        read_benchmark(write(tmp_path, **changes, train_patients=[2, 4]))


def test_every_subset_of_modalities_is_dropped_once():
    benchmark = read_benchmark("experiments/benchmarks/missing_modality.yaml")
    dropped = [variant.options[0].partition("=")[2] for variant in benchmark.variants]
    assert len(set(dropped)) == 2**4 - 2
    for variant, value in zip(benchmark.variants, dropped, strict=True):
        assert variant.name == "-".join(["without", *yaml.safe_load(value)])
    assert benchmark.tables[0]["variants"] == [variant.name for variant in benchmark.variants]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.network.x=1"], "--model.network.x is no option of this command"),
        (["--seed_everything=3"], "given to every training by --folds and --seeds"),
        (["--config", "none.yaml"], "no configuration file none.yaml"),
    ],
)
def test_options_that_not_every_experiment_can_have(words, sentence, tmp_path, capsys):
    assert cli.main(["benchmark", write(tmp_path), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("benchmarks").exists()
