"""Summaries at the end of a command: scores, paths, and the next command."""

import shlex
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from evaluation.tables.per_case import score_table, slice_table, system_table
from lightning_modules.segmentation import SegmentationModule
from studies.runs.checkpoint_settings import CheckpointSettings
from studies.runs.run import Run, never_found
from studies.scores.comparable import compared
from studies.tracking.weights_and_biases import offline_folders


def _render(*parts: Any) -> str:
    buffer = StringIO()
    terminal = Console()
    console = Console(
        file=buffer,
        width=min(110, terminal.width if terminal.is_terminal else 110),
        force_terminal=terminal.is_terminal,
        highlight=False,
    )
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))  # a text is a command to be copied
    return buffer.getvalue().rstrip()


def _config_of(manifest: dict[str, Any]) -> str:
    words = manifest.get("command", [])
    return words[words.index("--config") + 1] if "--config" in words else "experiments/fusion.yaml"


def _relative(path: str | Path) -> str:
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def training_summary(run: Run, *, repeated: bool = False) -> str:
    """Return the summary of a training as text.

    Args:
        run: the finished run.
        repeated: whether it was finished before this command.
    """
    manifest = run.manifest()
    minutes = float(manifest.get("wall_seconds", 0.0)) / 60
    peak = manifest.get("peak_memory_gb", {}).get("process", 0.0)
    head = f"[bold]{run.experiment}[/bold] run {run.id}: "
    if repeated:
        head += "this training was finished before; nothing was done (--overwrite trains it again)."
    else:
        head += f"finished in {minutes:.1f} min, peak memory {peak:.1f} GB."
    lines: list[Any] = [
        "",
        head,
        _parameters(manifest.get("parameters", {"all": 0, "trained": 0})),
        _validation(manifest),
        *_failure(manifest),
        f"Checkpoint   {_relative(run.best_checkpoint)}",
        f"Overlays     {_relative(run.folder / 'overlays')}",
    ]
    if run.metrics_file.is_file():  # late fusion trains nothing
        curves = run.folder / "curves.png"
        lines.append(f"Curves       {_relative(curves)}, {_relative(run.metrics_file)}")
    lines += _sync_hint(run)
    lines += _beside(run)
    if manifest.get("validation_cases"):
        lines.append(_next("test", "--config", _config_of(manifest), *_runs_dir(run)))
    return _render(*lines)


def _next(*words: str) -> Text:
    """Return the next command in one line, which a terminal does not break, for copying."""
    return Text(f"Next         {shlex.join(['lightning', *words])}")


def _runs_dir(run: Run) -> list[str]:
    """Return the option for the folder of runs, empty for the default folder."""
    folder = _relative(run.folder.parents[1])
    return [] if folder == "runs" else ["--runs_dir", folder]


def _sync_hint(run: Run) -> list[Any]:
    """Return the command that uploads a run's offline folders to W&B, for copying."""
    found = [_relative(folder) for folder in offline_folders(run)]
    command = " \\\n".join(["  wandb sync", *(f"    {shlex.quote(folder)}" for folder in found)])
    hint = f"W&B          offline; to see it online, after `wandb login`:\n{command}"
    return [Text(hint)] if found else []


def _beside(run: Run) -> list[Any]:
    """Return the table of comparable systems and their caveats, empty if there is no other."""
    systems = compared(run)
    if len(systems) < 2:
        return []
    notes = [
        f"Note         {row['system']}: {caveat}"
        for row in systems
        if not row["this"]  # the run's own stand among its notes
        for caveat in row["caveats"]
    ]
    return [system_table(systems, title="Systems trained on the same data and split"), *notes]


def _parameters(counts: dict[str, int]) -> str:
    share = 100 * counts["trained"] / max(1, counts["all"])
    return f"Parameters: {counts['all']:,} in all, {counts['trained']:,} trained ({share:.1f} %)."


def _validation(manifest: dict[str, Any]) -> Any:
    """Return the scores of the best epoch, on the patients that selected it."""
    rows = manifest.get("validation_cases", [])
    if not rows:
        scores = manifest.get("scores", {})
        return "\n".join(f"Best {name} {value:.4f}" for name, value in scores.items())
    where = "selected slices" if manifest.get("per_slice") else "whole volumes"
    title = f"Validation, {where}, best epoch (these patients selected the checkpoint)"
    return _table(rows, title, per_slice=bool(manifest.get("per_slice")))


def _failure(manifest: dict[str, Any]) -> list[str]:
    """Return a note on regions that no validation patient was found to have, if there are any."""
    regions = never_found(manifest)
    if not regions:
        return []
    return [
        f"Note         {', '.join(regions)} was found in no validation patient: the training "
        "failed. Train longer, or with other seeds: --seed_everything and --data.seed."
    ]


def _table(rows: list[dict[str, Any]], title: str, *, per_slice: bool) -> Any:
    if not per_slice:
        return score_table(rows, title=title)
    named = [
        {name if name == "case_id" else f"slices/dice/{name}": value for name, value in row.items()}
        for row in rows
    ]
    return slice_table(named, title=title)


def validation_summary(cases: dict[str, dict[str, float]], run: Run, per_slice: bool) -> str:
    """Return the scores of ``validate`` as text."""
    rows = [{"case_id": case_id, **scores} for case_id, scores in sorted(cases.items())]
    title = f"Validation patients of {run.experiment} {run.id}"
    return _render(_table(rows, title, per_slice=per_slice))


def test_summary(
    model: SegmentationModule,
    restored: CheckpointSettings,
    file: Path,
    notices: list[str],
    details: list[str],
) -> str:
    """Return the scores of ``test`` as text, with the path of the per-patient table.

    Args:
        model: the network, or the ensemble, with the rows of ``per_case.csv``.
        restored: the tested checkpoints and their run, whose folder need not exist.
        file: path of that table.
        notices: notes for the reader.
        details: further lines: effect of post-processing, calibration.
    """
    run = restored.run
    table = slice_table if model.per_slice else score_table
    title = f"Test patients of {run.experiment} {run.id}"
    parts: list[Any] = [table(model.test_rows, title=title), _parameters(model.parameter_counts())]
    parts += _beside(run)
    parts += [f"Note         {notice}" for notice in notices]
    parts += details
    parts.append(f"Per patient  {_relative(file)}")
    parts += _sync_hint(run)
    given = [word for path in restored.checkpoints for word in ("--ckpt_path", _relative(path))]
    parts.append(_next("predict", *given, "--data.root", "DIR", "--output", "predictions"))
    return _render(*parts)


def prediction_summary(folder: Path, failures: dict[str, str], remark: str = "") -> str:
    """Return the summary of ``predict``: files, doubtful patients, and failures.

    Args:
        folder: folder of the predictions.
        failures: case id to the reason why a patient was not segmented.
        remark: words about the origin of the network.
    """
    import csv

    with (folder / "volumes.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    doubted = [f"  {row['case_id']}: {row['doubts']}" for row in rows if row["doubts"]]
    parts = [
        f"{len(rows)} case{'' if len(rows) == 1 else 's'} segmented into "
        f"{_relative(folder)}/ (label maps, overlays, volumes.csv)."
    ]
    parts += [f"Note         {remark}"] if remark else []
    if doubted:
        parts += [f"Look at {len(doubted)} of them first:", *doubted]
    if failures:
        parts.append(f"{len(failures)} could not be segmented, mend their files and repeat:")
        parts += [f"  {case_id}: {what}" for case_id, what in sorted(failures.items())]
    return _render(*parts)
