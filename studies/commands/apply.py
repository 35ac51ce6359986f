"""The `lightning validate`, `test` and `predict` commands: use a trained model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.layouts.case_files import MODALITIES
from studies.runs.checkpoint_settings import find_checkpoints
from studies.runs.environment import is_main_process
from studies.runs.request import applied_options, applied_settings
from studies.runs.unused_options import plain_name
from studies.settings.command_line import CommandLine, read_settings
from studies.training.applying import Application
from studies.training.fit_parser import FitParser
from studies.training.lightning_cli import ExperimentCLI, read_words
from studies.training.shipped import find_shipped

CHECKPOINT = "the checkpoint"  # name of its settings in messages


def validate(words: list[str]) -> int:
    """Score a trained model on its validation patients."""
    return _apply("validate", words)


def test(words: list[str]) -> int:
    """Score a trained model on its test patients, or on another cohort."""
    return _apply("test", words)


def predict(words: list[str]) -> int:
    """Segment patients."""
    return _apply("predict", words)


def _apply(subcommand: str, words: list[str]) -> int:
    line = read_words(subcommand, words)
    shipped = find_shipped() if subcommand == "predict" and _names_only_patients(line) else None
    if shipped is not None:
        line.options.append(("ckpt_path", [f"--ckpt_path={shipped}"]))
    runs_dir = Path((line.pop("runs_dir") or ["runs"])[-1])
    restored = find_checkpoints(line, runs_dir, _resolve)
    line.options = applied_options(line)
    if shipped is not None:
        restored.notice = f"Using the weights that come with the project, {shipped}"
    if is_main_process():
        print(restored.notice, flush=True)
    images = {name: value[-1] for name in MODALITIES if (value := line.pop(name))}
    checkpoint = str(restored.checkpoints[0])
    base = {
        "model": restored.model or restored.cards[0]["model"],
        "data": restored.config["data"],
        "seed_everything": restored.config["seed_everything"],
    }
    # the checkpoint decides the network, the split and all settings of training
    overlays = {file: applied_settings(read_settings(file)) for file in line.configs}
    line.configs = [checkpoint, *line.configs]
    line.contents = {checkpoint: base, **overlays}
    if images:
        line.options.append(("data.images", [f"--data.images={json.dumps(images)}"]))
    line.options.append(("runs_dir", [f"--runs_dir={runs_dir}"]))
    session = ExperimentCLI(subcommand, line, restored).session
    return 1 if isinstance(session, Application) and session.failures else 0


def _names_only_patients(line: CommandLine) -> bool:
    """Whether a command names patients, but neither an experiment nor a checkpoint."""
    names = {plain_name(name) for name, _ in line.options}
    chosen = bool(line.configs) or "ckpt_path" in names
    return not chosen and not names.isdisjoint({"data.root", *MODALITIES})


def _resolve(line: CommandLine, below: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the configuration that ``fit`` resolves from a command line, over `below` if given.

    Raises:
        InputError: when a setting is unknown or has a wrong value.
    """
    fit = CommandLine(list(line.configs), line.options)
    if below is not None:
        fit.configs.insert(0, CHECKPOINT)
        fit.contents = {
            CHECKPOINT: {name: value for name, value in below.items() if value is not None}
        }
    return FitParser().resolve(fit, typed=True)
