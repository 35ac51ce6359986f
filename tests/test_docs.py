"""README, pages, licence and citation: the site builds, and everything named there exists."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import cli
from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (
    "adapters|backbones|datamodules|docs|evaluation|experiments|fusion|lightning_modules|speed|"
    "studies|tests"
)
INVENTED = {
    "gated",
    "gated_fusion",
    "my_head",
    "residual_unet",
}  # files of the examples that a reader writes
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name(page):
    return str(page.relative_to(ROOT))


def text_of(page):
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_site_builds_without_a_warning(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for page in (ROOT / "docs").glob("*.md"):
        place = tmp_path if page.stem == "index" else tmp_path / page.stem
        html = (place / "index.html").read_text()
        assert not re.search(r'<(script|link)[^>]+(src|href)="https?:', html)  # opens offline
    api = (tmp_path / "api" / "index.html").read_text()
    for shown in ("patches_per_epoch", "DualFusionAttention", "features", "CrossModalityAdapter"):
        assert shown in api


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    files = [link.partition("#")[0] for link in links if "://" not in link]
    assert not [file for file in files if not (page.parent / file).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_and_function_that_is_named_exists(page):
    text = text_of(page)
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text):
        if not INVENTED & set(re.split(r"[/.]", path)):
            assert (ROOT / path).exists(), path
    for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", text):
        source = (ROOT / path).read_text()
        for one in re.findall(r"\w+", names):
            assert re.search(rf"^ *(def |class )?{one}\b", source, re.MULTILINE), (path, one)


def test_design_names_the_file_that_every_command_starts_in():
    design = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| `([\w/]+\.py)` \|$", design, re.MULTILINE)
    stated = {command: file for row, file in rows for command in re.findall(r"\w+", row)}
    starts = {
        command: f"{place.partition(':')[0].replace('.', '/')}.py"
        for command, (place, _) in cli.COMMANDS.items()
    }
    assert stated == starts


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_line_names_a_command_and_files_that_exist(page):
    for line in re.findall(r"(?:^|`)lightning ([^`\n]+)", page.read_text(), re.MULTILINE):
        command, *words = line.split()
        assert command in {*cli.COMMANDS, "COMMAND", "--help"}, line
        for word in words:
            if word.startswith("experiments/") and word.endswith(".yaml") and "NAME" not in word:
                assert (ROOT / word).exists() or INVENTED & set(re.split(r"[/.]", word)), line


def test_citation_names_the_software_and_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    dual, adapter = citation["references"]
    assert dual["title"] == "3D Dual-Fusion Attention Network for Brain Tumor Segmentation"
    assert adapter["title"].startswith("Cross-modality Attention Adapter: A Glioma Segmentation")
    assert adapter["url"] == "https://arxiv.org/abs/2307.01124"
    for reference in (dual, adapter):
        assert reference["type"] == "article"
        assert f"{reference['title']}*" in " ".join(README.read_text().split())


def test_version_is_one_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(
        r"^## \[([\d.]+)\] - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest is not None
    assert (PROJECT["version"], str(citation["date-released"])) == newest.groups()
    assert citation["version"] == PROJECT["version"]


def test_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text
    assert "[yyyy] [name of copyright owner]" in text
    assert PROJECT["license-files"] == ["LICENSE"]


def test_packages_of_the_documentation_are_installed_for_the_tests():
    extras = PROJECT["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["test"])
