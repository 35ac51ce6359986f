"""One protocol for all systems of a comparison, or differences that the file allows."""

import pytest

from errors import InputError
from studies.benchmarks.benchmark_file import read_benchmark
from studies.benchmarks.fairness import check_fair, grouped, protocol_of
from studies.benchmarks.plan import compare_protocols
from studies.settings.command_line import CommandLine
from studies.training.fit_parser import FitParser
from tests.conftest import ROOT

SHIPPED = sorted(path.stem for path in (ROOT / "experiments" / "benchmarks").glob("*.yaml"))


def config(epochs=8, **data):
    init_args = {"batch_size": 2, "split_by": "patient", "num_workers": 0, **data}
    return {
        "model": {"class_path": "M", "init_args": {"lr": 1}},
        "data": {"class_path": "D", "init_args": init_args},
        "trainer": {"max_epochs": epochs, "devices": 1, "callbacks": []},
        "seed_everything": 0,
    }


def check(given, plain, allowed=()):
    return check_fair(
        {name: protocol_of(value) for name, value in given.items()},
        {name: protocol_of(value) for name, value in plain.items()},
        allowed,
    )


def test_what_changes_no_result_is_no_protocol():
    assert "data.num_workers" not in protocol_of(config())
    assert "trainer.devices" not in protocol_of(config())
    same = {"a": config(), "b": config(num_workers=4)}
    assert check(same, same) == {}


def test_given_to_one_alone_is_refused_naming_key_and_system():
    plain = {"a": config(), "b": config()}
    with pytest.raises(InputError, match=r"b is given data\.batch_size 4 and a has 2.*unfair"):
        check({"a": config(), "b": config(batch_size=4)}, plain)
    with pytest.raises(InputError, match=r"a is given trainer\.max_epochs 9 and b has 8"):
        check({"a": config(9), "b": config()}, plain)


def test_given_to_all_alike_is_fair():
    plain = {"a": config(), "b": config()}
    both = {"a": config(batch_size=4), "b": config(batch_size=4)}
    assert check(both, plain) == {}


def test_given_to_one_what_its_rival_has_by_itself_is_fair():
    plain = {"a": config(), "b": config(batch_size=4)}
    assert check({"a": config(batch_size=4), "b": config(batch_size=4)}, plain) == {}


def test_recipes_may_not_choose_their_slices():
    both = {"a": config(selection="largest"), "b": config(selection="all_tumour")}
    with pytest.raises(InputError, match=r"not tested on the same patients, data\.selection"):
        check(both, both)


def test_the_recipes_of_their_own_files_may_differ_and_are_reported():
    systems = {"a": config(8), "b": config(3)}
    assert check(systems, systems) == {"trainer.max_epochs": {"a": 8, "b": 3}}


def test_the_patients_may_not_differ_even_by_their_own_files():
    systems = {"a": config(), "b": config(split_by="slice")}
    with pytest.raises(InputError, match=r"data\.split_by differs \(a patient, b slice\)"):
        check(systems, systems)


def test_allowed_in_writing():
    found = check(
        {"a": config(), "b": config(split_by="slice")},
        {"a": config(), "b": config()},
        ["data.split_by"],
    )
    assert found == {"data.split_by": {"a": "patient", "b": "slice"}}


@pytest.fixture(scope="module")
def parse():
    return FitParser().parse_fit


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_comparisons_are_fair(name, parse):
    benchmark = read_benchmark(f"experiments/benchmarks/{name}.yaml")
    words = ["--data.root=patients"] if name == "few_real" else []
    different = compare_protocols(benchmark, parse, CommandLine.parse(words))
    assert ("data.split_by" in different) == (name == "leakage")  # there it is the subject


def test_an_overlay_over_one_experiment_is_found(parse):
    benchmark = read_benchmark("experiments/benchmarks/sam_adapter.yaml")
    first, *others = benchmark.entries
    changed = type(first)("changed", first.file, ("experiments/scale/slices2d.yaml",))
    benchmark.entries = [changed, *others]
    with pytest.raises(InputError, match=r"changed is given data\.\w+ .* unfair"):
        compare_protocols(benchmark, parse, CommandLine())
    everyone = CommandLine(["experiments/scale/slices2d.yaml"])
    assert "data.spacing" not in compare_protocols(benchmark, parse, everyone)


def test_a_difference_names_each_value_once_and_a_class_in_short():
    def stopping(patience):
        return {"class_path": "a.EarlyStopping", "init_args": {"patience": patience}}

    shares = {"dynunet": 0.5, "late fusion": None, "fusion": 0.5}
    assert grouped(shares) == "0.5 (dynunet, fusion), unset (late fusion)"
    callbacks = {"a": [stopping(6)], "b": [stopping(6), {"class_path": "b.Average"}], "c": []}
    assert grouped(callbacks) == "EarlyStopping (a), EarlyStopping and Average (b), none (c)"
    unlike = grouped({"a": stopping(6), "b": stopping(3), "c": [48, 48]})
    assert unlike == f"{stopping(6)} (a), {stopping(3)} (b), [48, 48] (c)"
