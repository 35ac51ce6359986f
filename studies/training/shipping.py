"""A finished run as a checkpoint for others: weights alone, a manifest, a model card."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from datamodules.layouts.case_files import MODALITIES
from datamodules.nifti.headers import SYNTHETIC_TRAINING
from errors import InputError
from evaluation.metrics.postprocessing import Postprocessing
from evaluation.tables.per_case import mean_scores
from files import read_object
from lightning_modules.weights.checkpoints import KEY, as_bytes, load_module, read_checkpoint
from studies.runs.exposure import only_synthetic
from studies.runs.planning import file_hash, postprocessing_of
from studies.runs.recreation import stages_of
from studies.runs.run import Run
from studies.runs.unused_options import plain_name
from studies.scores.tested import read_scores
from studies.settings.command_line import ROOT, CommandLine, find_config

SCORES = ("dice/", "hd95/")  # metrics that a manifest states
# Options of a training that change no weight: places and displays of one machine.
WHOLE = (None, "None", "[]", "1.0")  # of limit_test_batches and data.drop: all is tested
OF_A_MACHINE = (
    *("runs_dir", "resume", "overwrite", "data.cache_dir", "data.num_workers"),
    *("trainer.logger", "trainer.enable_progress_bar", "trainer.accelerator", "trainer.devices"),
)
TEMPLATE = """\
# {name}

Segments glioma in four-modality MRI (T1, T1ce, T2, FLAIR) into whole tumour, tumour core and
enhancing tumour. **Trained on synthetic patients only; for research.**

```
lightning predict --data.root PATIENTS --output OUT
```

## It must not be used for

- **any clinical decision**: diagnosis, treatment, follow-up or triage;
- patients whose images are not skull-stripped and on one grid: `lightning check` names them;
- scores that are reported as those of a network that was trained on real patients.

`lightning check --data.root PATIENTS --ckpt_path weights/{name}.ckpt` names the patients who look
unlike the training patients, and `lightning predict` lists them among the doubts.

## Post-processing

{rules}

## Training

Run `{run}`, {minutes:.0f} minutes on {processor}:

```
{command}
```

`python -m speed.commands.shipped_weights` trains it again and compares the scores.

## Data

{data}. No real patient was seen, neither in training nor in the selection of the checkpoint.

## Measured scores

{scores}

## Licences

Code and weights: Apache-2.0. The anatomy of the synthetic patients is that of the ICBM 2009a
nonlinear symmetric template as bundled with nilearn: Copyright (C) 1993-2004 Louis Collins,
McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University. Permission to
use, copy, modify, and distribute the template for any purpose and without fee is granted by its
authors, provided that this copyright notice appears in all copies; it is provided "as is", without
express or implied warranty.

SHA-256 of `{name}.ckpt`: `{sha256}`
"""

POSTPROCESSED = """\
Applied to every prediction unless `--postprocessing off` is given: {rules}. True lesions
below these sizes are lost too; `volumes.csv` of `lightning predict` has the volumes before and
after it."""


def slim(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights and the card of a checkpoint, without the places of one machine.

    Args:
        checkpoint: the content of a checkpoint file.

    Raises:
        InputError: when it was trained on real patients, whom its card names.
    """
    card = dict(checkpoint[KEY])
    if not only_synthetic(card):
        raise InputError(
            "This run was trained on real patients, whom its checkpoint names: only a run that was "
            "trained on phantoms can be exported."
        )
    config = dict(card["config"])
    data = config["data"]
    config["data"] = {**data, "init_args": {**data["init_args"], "cache_dir": None}}
    config["trainer"] = {**config["trainer"], "logger": False, "default_root_dir": None}
    config.pop("runs_dir", None)
    card = _without_folders({**card, "config": config})
    return {"state_dict": checkpoint["state_dict"], KEY: card}


def _without_folders(value: Any) -> Any:
    """Return plain values with absolute paths shortened to their names."""
    if isinstance(value, Mapping):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value


def check_equal(original: Path, exported: Path) -> None:
    """Check that two checkpoints have the same logits, to the last bit, on a random patch.

    Raises:
        InputError: when they differ.
    """
    first, second = (_logits(load_module(path)) for path in (original, exported))
    if not torch.equal(first, second):
        raise InputError(
            f"{exported} has other logits than {original}, so it is not exported: report this."
        )


def _logits(module: Any) -> torch.Tensor:
    size = module.card["patch_size"]
    image = torch.randn(1, len(MODALITIES), *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits: torch.Tensor = module.eval()(image)
    return logits


def command_of(run: Run) -> list[str]:
    """Return the command that trains a run again on any machine.

    Raises:
        InputError: when a configuration file of it is not part of the project.
    """
    line = CommandLine.parse([str(word) for word in run.manifest()["command"][2:]])
    files = []
    for config in line.configs:
        file = find_config(config)
        if not file.is_relative_to(ROOT):
            raise InputError(
                f"{run.folder} was trained with {config}, which is no file of the project, so "
                "others cannot train it again: put it below experiments/ and train with that."
            )
        files.append(str(file.relative_to(ROOT)))
    kept = [
        (name, words)
        for name, words in line.options
        if not any(f"{plain_name(name)}.".startswith(f"{one}.") for one in OF_A_MACHINE)
    ]
    return ["lightning", "fit", *CommandLine(files, kept).typed()]


def measured(
    run: Run, card: Mapping[str, Any], content: bytes, tables: Sequence[tuple[str, Path]]
) -> dict[str, Any]:
    """Return the mean scores of a run: its own test, and tables of tests on other patients.

    Args:
        run: the run.
        card: card of its checkpoint.
        content: the bytes of the exported file.
        tables: name and ``per_case.csv`` of each further test.

    Raises:
        InputError: when a table is missing or damaged, is of another checkpoint or of a part of a
            test, or two have one name.
    """
    manifest = run.manifest()
    found: dict[str, Any] = {"validation": _rounded(manifest.get("scores", {}))}
    own = run.folder / "per_case.csv"
    if "test_scores" in manifest and own.is_file():
        tables = [("held-out phantoms", own), *tables]
    name_of_run = f"{card['run']['experiment']}/{card['run']['id']}"
    digests = (file_hash(run.best_checkpoint), hashlib.sha256(content).hexdigest())
    checkpoints = [f"{name_of_run} ({digest[:12]})" for digest in digests]
    for name, table in tables:
        if name in found:
            raise InputError(f"--scores {name}={table}: {name} has scores already: name it apart.")
        if not table.is_file():
            raise InputError(f"--scores {name}={table}: there is no such file.")
        record = table.parent / "test.json"
        inputs = read_object(record) if record.is_file() else {}
        if table != own and inputs.get("checkpoint") not in checkpoints:
            raise InputError(
                f"--scores {name}={table}: it is no test of {name_of_run}; give the per_case.csv "
                f"of `lightning test --ckpt_path {run.best_checkpoint} --results_dir ...`."
            )
        limits = ("limit_test_batches", "data.drop")
        given = [f"{one} {inputs[one]}" for one in limits if inputs.get(one) not in WHOLE]
        if given:
            raise InputError(
                f"--scores {name}={table}: it was tested with {' and '.join(given)}: test without."
            )
        rows = read_scores(table)
        means = {key: one for key, one in mean_scores(rows).items() if key.startswith(SCORES)}
        found[name] = {"patients": len(rows), **_rounded(means)}
    return found


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in scores.items()}


def manifest_of(
    run: Run, card: Mapping[str, Any], content: bytes, scores: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest that stands beside an exported checkpoint.

    Args:
        run: the run.
        card: card of its checkpoint.
        content: the bytes of the exported file.
        scores: as `measured` returns them.
    """
    manifest, split = run.manifest(), card["split"]
    rules = Postprocessing.of(postprocessing_of(card["model"]))
    data = card["config"]["data"]["init_args"]
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "megabytes": round(len(content) / 1e6, 2),
        "run": card["run"],
        "command": command_of(run),
        "origin": SYNTHETIC_TRAINING,
        "data": {
            **{name: len(split[name]) for name in ("train", "val", "test")},
            **{name: value for name, value in data.items() if name.startswith("phantom_")},
            "spacing": data["spacing"],
            "fingerprint": manifest.get("cohort"),
        },
        "seed": manifest.get("seed"),
        "wall_seconds": wall_seconds(
            [run.manifest(), *(stage.manifest() for stage in stages_of(run).values())]
        ),
        "parameters": manifest.get("parameters"),
        "postprocessing": rules and str(rules),
        "scores": dict(scores),
        "versions": manifest.get("versions"),
        "git": manifest.get("git"),
        "hardware": manifest.get("hardware"),
        "licence": "Apache-2.0",
    }


def wall_seconds(manifests: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds in which a run and its stages were trained, side by side or in turn.

    Args:
        manifests: theirs, each with ``finished_at`` and its own ``wall_seconds``.
    """
    ends = ((datetime.fromisoformat(one["finished_at"]), one["wall_seconds"]) for one in manifests)
    found = 0.0
    covered: datetime | None = None  # up to here all is counted
    for start, end in sorted((end - timedelta(seconds=length), end) for end, length in ends):
        begin = start if covered is None else max(start, covered)
        if begin < end:
            found, covered = found + (end - begin).total_seconds(), end
    return round(found, 1)


def model_card(name: str, manifest: Mapping[str, Any]) -> str:
    """Return the model card of an exported checkpoint as Markdown."""
    data, run, rules = manifest["data"], manifest["run"], manifest["postprocessing"]
    hardware = manifest.get("hardware") or {}
    stated = (
        f"{data['train']} synthetic patients to train, {data['val']} to select the checkpoint and "
        f"{data['test']} to test, generated with seed {data.get('phantom_seed')} at "
        f"{data.get('phantom_spacing')} mm and prepared at {data['spacing']:g} mm"
    )
    return TEMPLATE.format(
        name=name,
        run=f"{run['experiment']}/{run['id']}",
        rules=POSTPROCESSED.format(rules=rules) if rules else "None.",
        minutes=float(manifest["wall_seconds"]) / 60,
        processor=f"{hardware.get('cores', '?')} cores of {hardware.get('processor', 'unknown')}",
        command=" ".join(manifest["command"]),
        data=stated,
        scores=score_lines(manifest["scores"]),
        sha256=manifest["sha256"],
    )


def score_lines(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return scores as a table in Markdown: a line for each group of patients."""
    names = list(
        dict.fromkeys(
            name.removeprefix("val/")
            for means in scores.values()
            for name in means
            if name != "patients"
        )
    )
    head = ["patients", "number", *names]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for group, means in scores.items():
        values = {name.removeprefix("val/"): value for name, value in means.items()}
        cells = [f"{values[name]:.3f}" if name in values else "" for name in names]
        lines.append(f"| {group} | {means.get('patients', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def exported(run: Run, tables: Sequence[tuple[str, Path]]) -> tuple[bytes, dict[str, Any]]:
    """Return the file and the manifest of a finished run.

    Args:
        run: the run.
        tables: name and ``per_case.csv`` of each further test.

    Raises:
        InputError: when it cannot be exported.
    """
    checkpoint = read_checkpoint(run.best_checkpoint)
    light = slim(checkpoint)
    content = as_bytes(light)
    scores = measured(run, checkpoint[KEY], content, tables)
    return content, manifest_of(run, checkpoint[KEY], content, scores)
