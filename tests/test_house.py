"""Rules of the repository: allowed imports, promises of the README, forbidden files."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUN = "pip install -c constraints.txt -e . && lightning fit --config experiments/fusion.yaml"
TEST = 'pip install -c constraints.txt -e ".[test]" && pytest'
SOURCES = [
    path
    for folder in (
        [
            "adapters",
            "backbones",
            "datamodules",
            "evaluation",
            "fusion",
            "lightning_modules",
            "speed",
            "studies",
        ]
    )
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_readme_holds_the_two_commands_near_its_top():
    top = (ROOT / "README.md").read_text().splitlines()[:40]
    assert RUN in top
    assert TEST in top


def test_ci_runs_exactly_the_test_command():
    assert TEST in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_dependency_is_pinned():
    pinned = {
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in asked}
    assert names <= pinned
    assert not {name for name in pinned if "torchvision" in name or name == "timm"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_noun_and_imports_no_torchvision(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert not re.search(r"^\s*(from|import) (torchvision|timm|cli)\b", text, re.MULTILINE)


def test_a_folder_holds_about_ten_files():
    folders = {path.parent for path in SOURCES}
    held = {folder: [p for p in SOURCES if p.parent == folder] for folder in folders}
    assert {f.name: len(h) for f, h in held.items() if len(h) > 12} == {}
    assert all((folder / "__init__.py").read_text().startswith('"""') for folder in folders)


def test_no_base_name_stands_in_two_rooms_of_a_package():
    both = {"datamodule.py", "dataset.py", "augmentation.py"}  # 3D and 2D: the same parts
    rooms: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in SOURCES:
        if path.name != "__init__.py":
            rooms[path.relative_to(ROOT).parts[0], path.name].append(path)
    twice = {name: paths for (_, name), paths in rooms.items() if len(paths) > 1}
    assert set(twice) == both
    assert {p.parent.name for paths in twice.values() for p in paths} == {"volumes", "slices"}


def test_tests_mirror_the_source():
    packages = {path.relative_to(ROOT).parts[0] for path in SOURCES} - {"speed"}
    for package in packages:
        for folder in (ROOT / "tests" / package).rglob("*/"):
            if folder.name != "__pycache__":
                assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), folder


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if ROOT / "speed" in p.parents], ids=lambda path: path.stem
)
def test_every_measurement_finds_what_it_imports(path):
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_import_rules():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."]])
def test_ruff_is_clean(tool):
    result = subprocess.run(
        [sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_mypy_is_clean():
    result = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_help_and_unknown_commands_do_not_import_torch():
    code = (
        "import sys, cli; status = cli.main(['--help']); assert status == 0; "
        "assert cli.main(['trian']) == 2; assert not {'torch', 'optuna'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "fit" in result.stdout
    assert "no command 'trian'" in result.stderr
