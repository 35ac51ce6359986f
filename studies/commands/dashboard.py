"""``lightning dashboard``: build the project's page on W&B, or print it without an account."""

from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from command_parser import CommandParser
from errors import InputError
from studies.settings.command_line import add_dry_run
from studies.tracking.account import has_key, mode

Kind = Literal["lines", "bars", "scatter", "pictures", "table", "differences"]
SYSTEM = "gliofuse.system"  # in every run's configuration: experiment, overlays, options
GROUP = "Group"  # W&B's: all runs of one study on one cohort, or of a benchmark on one cohort


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard.

    Args:
        kind: lines over epochs, bars, points, pictures of patients, a table of patients, or the
            settings in which runs differ.
        title: title above it.
        metrics: names under which runs log; x, then y for a scatter plot.
        by: key by which runs are averaged: runs with the same value are one line or bar.
    """

    kind: Kind
    title: str
    metrics: tuple[str, ...] = ()
    by: str = ""


@dataclass(frozen=True)
class Section:
    """Panels that answer one question.

    Args:
        name: name of the section.
        question: the question that it answers, shown in the terminal.
        panels: the panels in their order.
    """

    name: str
    question: str
    panels: tuple[Panel, ...]


def _per_region(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}/{region}" for region in ("WT", "TC", "ET"))


BOARD = (
    Section(
        "Curves by experiment",
        "Does it learn?",
        (
            Panel("lines", "Training loss", ("train/loss",), by=SYSTEM),
            Panel("lines", "Validation Dice, mean of the regions", ("val/dice/mean",), by=SYSTEM),
            Panel("lines", "Validation loss of first stages", ("val/loss",), by=SYSTEM),
        ),
    ),
    Section(
        "Dice per region",
        "Which tumour region is it good at?",
        (
            *(
                Panel("lines", f"Validation Dice {name.rpartition('/')[2]}", (name,), by=SYSTEM)
                for name in _per_region("val/dice")
            ),
            Panel("bars", "Best validation Dice", _per_region("best/val/dice"), by=SYSTEM),
            Panel("bars", "Test Dice", _per_region("test/dice"), by=SYSTEM),
            Panel("bars", "Test HD95 (mm)", _per_region("test/hd95"), by=SYSTEM),
            Panel("bars", "2D: test Dice on selected slices", ("test/slices/dice/WT",), by=SYSTEM),
        ),
    ),
    Section(
        "Cases",
        "What does it look like, and where does it fail?",
        (
            Panel("pictures", "Test patients: lowest Dice and the highest", ("test/overlays",)),
            Panel("pictures", "Validation patients", ("val/overlays",)),
            Panel("table", "Test scores per patient", ("test/cases",)),
            Panel("table", "Validation scores per patient", ("val/cases",)),
        ),
    ),
    Section(
        "Parameters and cost",
        "What does it take?",
        (
            Panel("bars", "Parameters", ("parameters/all", "parameters/trained"), by=SYSTEM),
            Panel(
                "scatter",
                "Trained parameters against Dice",
                ("parameters/trained", "best/val/dice/mean"),
            ),
            Panel("bars", "Training time (s)", ("wall_seconds",), by=SYSTEM),
            Panel("bars", "Peak memory (GB)", ("peak_memory_gb/process",), by=SYSTEM),
        ),
    ),
    Section(
        "Benchmarks",
        "How do the groups compare?",
        (
            Panel("bars", "Test Dice by group", _per_region("test/dice"), by=GROUP),
            Panel("bars", "Test HD95 (mm) by group", _per_region("test/hd95"), by=GROUP),
            Panel("differences", "Settings in which the chosen runs differ"),
        ),
    ),
)
COLUMNS = (  # columns of the table of runs, by W&B's names
    "run:group",
    "run:jobType",
    "config:gliofuse.value.system",
    "summary:best/val/dice/mean",
    *(f"summary:{name}" for name in _per_region("test/dice")),
    "summary:parameters/all",
    "summary:parameters/trained",
    "summary:peak_memory_gb/process",
    "summary:wall_seconds",
)
KINDS = {
    "lines": "a line over epochs",
    "bars": "a bar",
    "scatter": "points, a run each",
    "pictures": "pictures side by side",
    "table": "table that sorts and filters",
    "differences": "table of settings",
}


def workspace(entity: str, project: str, group: str | None = None) -> Any:
    """Return the dashboard as an object of ``wandb-workspaces``, not yet saved.

    Args:
        entity: user or team on W&B.
        project: project of the runs.
        group: group whose runs are shown; None: all runs.
    """
    import wandb_workspaces.workspaces as ws

    chosen = ws.And(ws.Metric(GROUP) == group) if group else ""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"gliofuse {group}" if group else "gliofuse",
        sections=[
            ws.Section(
                name=section.name,
                panels=[_panel(panel) for panel in section.panels],
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=3, rows=2),
            )
            for section in BOARD
        ],
        runset_settings=ws.RunsetSettings(pinned_columns=list(COLUMNS), filters=chosen),
    )


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    names: list[Any] = list(panel.metrics)
    by = None
    if panel.by:
        by = wr.Metric(panel.by) if panel.by == GROUP else wr.Config(panel.by)
    if panel.kind == "lines":
        return wr.LinePlot(
            title=panel.title, x="epoch", y=names, groupby=by, groupby_aggfunc="mean"
        )
    if panel.kind == "bars":
        return wr.BarPlot(title=panel.title, metrics=names, groupby=by, groupby_aggfunc="mean")
    if panel.kind == "scatter":
        x, y = (wr.SummaryMetric(name) for name in names)
        return wr.ScatterPlot(title=panel.title, x=x, y=y, log_x=True)
    if panel.kind == "pictures":
        return wr.MediaBrowser(title=panel.title, media_keys=names, num_columns=2)
    if panel.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=names[0])
    return wr.RunComparer(diff_only="split")


def tree(project: str, group: str | None = None) -> Tree:
    """Return the dashboard for the terminal: sections, panels and their metrics."""
    chosen = f", runs of the group {escape(group)}" if group else ""
    root = Tree(f"[bold]gliofuse[/bold], a view of the W&B project {escape(project)}{chosen}")
    columns = root.add("[bold]Table of runs[/bold]  Scores, parameters and cost of every run")
    for column in COLUMNS:
        columns.add(f"[cyan]{escape(column.partition(':')[2].replace('.value', ''))}[/cyan]")
    for section in BOARD:
        branch = root.add(f"[bold]{section.name}[/bold]  {section.question}")
        for panel in section.panels:
            shown = (" against " if panel.kind == "scatter" else ", ").join(panel.metrics)
            by = f" for each {panel.by.rpartition('.')[2].lower()}" if panel.by else ""
            node = branch.add(f"{panel.title}  [dim]({KINDS[panel.kind]}{by})[/dim]")
            if shown:
                node.add(f"[cyan]{shown}[/cyan]")
    return root


def obstacle() -> tuple[str, str]:
    """Return why the dashboard cannot be built, and what to do about it; empty if it can."""
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        return (
            "the package wandb-workspaces is missing",
            'pip install -c constraints.txt -e ".[dashboard]"',
        )
    if not has_key():
        return "there is no key of W&B here", "wandb login        (or set WANDB_API_KEY)"
    if mode() != "online":
        return "WANDB_MODE keeps this machine off W&B", "unset WANDB_MODE"
    return "", ""


def save(entity: str | None, project: str, group: str | None = None) -> str:
    """Build the dashboard on W&B; return its address.

    Raises:
        InputError: when W&B refuses or cannot be reached.
    """
    import wandb

    try:
        found = workspace(entity or str(wandb.Api().default_entity), project, group)
        found.save()
        return str(found.url)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(
            f"W&B did not take the dashboard of {entity or 'your account'}/{project} ({reason}): "
            "the project has to exist (its first synced run creates it), and --entity has to be a "
            "user or a team that you may write to."
        ) from error


def main(words: list[str]) -> int:
    """Build the dashboard if there is an account, else print it as a tree."""
    parser = CommandParser(
        prog="lightning dashboard",
        description="Build the project's page on Weights & Biases: curves, Dice per region, "
        "patients, parameters, benchmarks. Without an account it is shown as a tree. Every call "
        "makes a new view of the project; the earlier ones stay.",
        examples=["lightning dashboard --dry-run"],
    )
    add = parser.add_argument
    add("--entity", help="user or team on W&B (default: yours)")
    add("--project", default="gliofuse", help="project of the runs (default: gliofuse)")
    add(
        "--group",
        help="only the runs of this group as W&B names it, a benchmark with its "
        "cohort, such as 'dual_fusion 3d-0123abcd' (default: all)",
    )
    add_dry_run(parser, "only show what would be built")
    options = parser.parse_args(words)
    hindrance, remedy = obstacle()
    if not hindrance and not options.dry_run:
        print(f"Dashboard    {save(options.entity, options.project, options.group)}")
        return 0
    Console(highlight=False).print(tree(options.project, options.group))
    if not hindrance:
        print("\nNothing was built (--dry-run); without it this page is made on W&B.")
        return 0
    print(f"\nNothing was built: {hindrance}. To build it:")
    print(f"  {remedy}")
    print("  wandb sync ...     (printed at the end of every run; the first creates the project)")
    print("  lightning dashboard")
    return 0
