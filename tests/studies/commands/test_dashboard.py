"""The dashboard as data for W&B, and as a tree in a terminal without an account."""

import sys

import pytest

import cli
from errors import InputError
from studies.commands import dashboard
from studies.commands.dashboard import BOARD, save, workspace

KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC")
# wandb-workspaces 0.4 is written for pydantic 1
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """Remove the W&B account."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def shown(panel):
    """Return the metrics of a panel by their names in W&B's page."""
    config = panel.model_dump(by_alias=True)["config"]
    if panel.view_type == "Scatter Plot":
        names = [config["xAxis"], config["yAxis"]]
        return [name.removeprefix("summary:") for name in names]
    return config.get("metrics") or config.get("mediaKeys") or []


def test_every_panel_reaches_the_workspace():
    sections = workspace("team", "project")._to_model().spec.section.panel_bank_config.sections
    assert [section.name for section in sections] == [section.name for section in BOARD]
    for built, section in zip(sections, BOARD, strict=True):
        assert len(built.panels) == len(section.panels)
        for panel, wanted in zip(built.panels, section.panels, strict=True):
            if wanted.kind == "table":
                assert f'"{wanted.metrics[0]}"' in panel.model_dump_json()
            else:
                assert shown(panel) == list(wanted.metrics), wanted.title


def test_lines_and_bars_are_one_a_system():
    (line, *_), *_ = (
        section.panels
        for section in workspace("t", "p")._to_model().spec.section.panel_bank_config.sections
    )
    config = line.model_dump(by_alias=True)["config"]
    assert (config["xAxis"], config["groupBy"]) == ("epoch", "gliofuse.value.system")


def test_a_benchmark_alone():
    found = workspace("team", "project", "dual_fusion")
    assert "dual_fusion" in found.name
    filters = found._to_model().model_dump_json(by_alias=True)
    assert '"value":"dual_fusion"' in filters.replace(" ", "")


def test_without_an_account_it_is_shown(stranger, capsys):
    assert cli.main(["dashboard", "--project", "mine"]) == 0
    printed = capsys.readouterr().out
    assert "the W&B project mine" in printed
    for section in BOARD:
        assert section.name in printed
        for panel in section.panels:
            assert all(metric in printed for metric in panel.metrics)
    assert "Nothing was built: there is no key of W&B here." in printed
    assert "wandb login" in printed


def test_without_the_package_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert cli.main(["dashboard"]) == 0
    assert 'pip install -c constraints.txt -e ".[dashboard]"' in capsys.readouterr().out


@pytest.mark.parametrize("spelling", ["--dry-run", "--dry_run"])
def test_dry_run_asks_nobody(spelling, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(dashboard, "save", None)
    assert cli.main(["dashboard", spelling]) == 0
    assert "(--dry-run)" in capsys.readouterr().out


def test_it_is_saved_where_there_is_an_account(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    asked = []
    monkeypatch.setattr(dashboard, "save", lambda *words: asked.append(words) or "https://page")
    assert cli.main(["dashboard", "--entity", "team", "--group", "g"]) == 0
    assert asked == [("team", "gliofuse", "g")]
    assert "https://page" in capsys.readouterr().out


def test_a_refusal_is_one_sentence(monkeypatch):
    class Refusing:
        def save(self):
            raise ValueError("permission denied\nlong trace")

    monkeypatch.setattr(dashboard, "workspace", lambda *words: Refusing())
    with pytest.raises(InputError, match=r"team/p \(permission denied\): the project has to exist"):
        save("team", "p")
