"""Check for typed options that a command would not use.

LightningCLI gives every command the options of trainer, model and data. The tables below list those
without an effect; typing one is an error. Settings in files are not checked, as a test may get the
overlay of its training.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from errors import InputError
from studies.settings.command_line import CommandLine, read_settings
from studies.settings.protocol import PROTOCOL

APPLY = ("validate", "test", "predict")
HIDDEN = ("ckpt_path", "weights_only", "verbose", "return_predictions")  # of Lightning's methods

# Trainer options that a command on a trained model uses, besides those of `LIMITS`.
TRAINER_USED = (
    *("accelerator", "strategy", "devices", "num_nodes", "plugins", "use_distributed_sampler"),
    *("deterministic", "benchmark", "inference_mode", "profiler", "detect_anomaly"),
    "fast_dev_run",
)
LIMITS = {"validate": "limit_val_batches", "test": "limit_test_batches"} | {
    "predict": "limit_predict_batches"
}

# For each command, its unused options and the advice in the message.
TABLE: dict[str, dict[str, str]] = {
    "fit": {
        "ckpt_path": "--resume goes on with a training that was begun, and --model.weights or "
        "--model.backbones begins from a checkpoint where the experiment takes one",
        "trainer.default_root_dir": "--runs_dir sets the folder of runs",
        "trainer.enable_model_summary": "the parameters are printed at the end",
        "trainer.limit_test_batches": "it belongs to `lightning test`",
        "trainer.limit_predict_batches": "it belongs to `lightning predict`",
        "data.images": "one unlabelled patient can only be predicted",
        "trainer.enable_progress_bar": "output that is no terminal gets no bar",
    },
    "validate": {
        "model.postprocessing": "validation never applies it",
        "trainer.logger": "only fit and test log",
        "data.images": "one unlabelled patient can only be predicted",
    },
    "test": {"data.images": "one unlabelled patient can only be predicted"},
    "predict": {
        "trainer.logger": "only fit and test log",
        "data.allow_seen_patients": "every patient given is predicted, and none is scored",
        "data.selection": "every slice is predicted",
        "data.slices_per_patient": "every slice is predicted",
        "data.images": "give the four files as --t1, --t1ce, --t2 and --flair",
    },
}
INSTEAD_OF_DIR = "--output, --results_dir and --runs_dir say where files go"

# Data setting to the settings of which at least one must be given with it.
NEEDS: dict[str, tuple[str, ...]] = {
    "layout": ("root", "images"),
    "source": ("root", "images"),
    "labels": ("root", "images"),
    "missing": ("root", "images"),
    "whole_head": ("root", "images"),
    "accept_flagged": ("root", "images"),
    "fold": ("n_folds", "split_file"),
    "phantoms": ("root",),
}
# Data setting to the settings that leave it without an effect.
BESIDE: dict[str, tuple[str, ...]] = {
    "phantom_patients": ("root", "images"),
    "phantom_seed": ("root", "images"),
    "phantom_spacing": ("root", "images"),
    "n_folds": ("split_file",),
}
SHORT = {"t1", "t1ce", "t2", "flair"}
# Options that are read before the parser could report a missing value.
VALUED = {"config", "c", "ckpt_path", "runs_dir", *SHORT}


def plain_name(name: str) -> str:
    """Return an option's name without ``init_args`` and without the + of an appended list."""
    return name.replace("init_args.", "").rstrip("+")


def check_typed(command: str, line: CommandLine) -> None:
    """Refuse a typed option that the command would not use, and a file that holds no settings.

    Args:
        command: fit, validate, test or predict.
        line: its command line.

    Raises:
        InputError: naming the option or the file, and what to do instead.
    """
    for name, words in line.options:
        if not words[0].startswith("-"):
            raise InputError(
                f"{words[0]} stands alone: every option has a name, such as --config FILE or "
                "--ckpt_path FILE."
            )
        if name == "seed_everything" and _value(words).lower() in ("true", "false"):
            raise InputError(
                f"--{name} is {_value(words)}: expected a number, so that the training can be "
                "repeated."
            )
        if name in VALUED and not _value(words):
            raise InputError(f"--{name} has no value: give one behind it, or leave it out.")
    _check_repeated(line)
    if command == "fit" and line.has("resume") and line.has("overwrite"):
        raise InputError(
            "--resume goes on with a training and --overwrite begins it again: give one of them."
        )
    if command == "predict":
        files = sorted({name for name, _ in line.options} & SHORT)
        if files and any(plain_name(name) == "data.root" for name, _ in line.options):
            raise InputError(
                f"--data.root names a cohort and --{files[0]} a file of one patient: give one of "
                "both."
            )
    for name, words in line.options:
        plain = plain_name(name)
        known = TABLE[command].items()
        what = next((text for key, text in known if f"{plain}.".startswith(f"{key}.")), None)
        if plain in HIDDEN and what is None and not (command != "fit" and plain == "ckpt_path"):
            what = "leave it out"
        if what is None and command in APPLY and _unused(command, plain):
            what = INSTEAD_OF_DIR if plain.endswith("_dir") else "leave it out"
        if what is not None and not _turns_off(plain, words):
            raise InputError(f"--{name} has no effect in {command}: {what}.")
    for file in line.configs:
        read_settings(file)


def check_forwarded(line: CommandLine, own: Iterable[str] = ()) -> None:
    """Refuse an option that a study would pass to trainings which do not use it.

    Args:
        line: options for every training.
        own: options that the study sets itself for each training.

    Raises:
        InputError: naming the option.
    """
    for name, _ in line.options:
        if name in ("resume", "overwrite", "runs_dir", "print_config", *own):
            raise InputError(
                f"--{name} is an option of one training and none of this command: leave it out; "
                "what is finished is kept, and what was begun goes on."
            )
    check_typed("fit", line)


def check_together(line: CommandLine, data: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse a typed setting that another setting leaves without an effect.

    Args:
        line: the command line.
        data: ``init_args`` of the resolved data module.
        model: ``init_args`` of the resolved model.

    Raises:
        InputError: naming both settings.
    """
    for name, words in line.options:
        group, _, setting = plain_name(name).partition(".")
        if group == "model" and setting == "size" and model.get("variant") is not None:
            raise InputError(
                f"--{name} has no effect beside model.variant ({model['variant']}), which settles "
                "the size: leave one of both out."
            )
        if group != "data" or _value(words) in ("null", "None"):
            continue
        needed = NEEDS.get(setting, ())
        if needed and not _given(data, needed):
            listed = " or ".join(f"--data.{other}" for other in needed)
            raise InputError(
                f"--{name} has no effect without {listed}: add one of them, or leave it out."
            )
        met = _given(data, BESIDE.get(setting, ()))
        if met and not (setting.startswith("phantom_") and data.get("phantoms")):
            raise InputError(
                f"--{name} has no effect beside data.{met[0]} ({data[met[0]]}): leave one of both "
                "out."
            )
        if setting == "slices_per_patient" and data.get("selection") != "n_per_patient":
            raise InputError(
                f"--{name} has no effect with data.selection {data.get('selection')}: add "
                "--data.selection n_per_patient, or leave it out."
            )


def _given(data: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [name for name in names if data.get(name) is not None]


def _unused(command: str, plain: str) -> bool:
    """Whether a command on a trained model does not use a trainer option."""
    group, _, name = plain.partition(".")
    if group != "trainer" or not name:
        return False
    name = name.partition(".")[0]
    used = {*TRAINER_USED, LIMITS[command], *PROTOCOL, "callbacks"}  # these choose the run
    return name not in (used | {"logger"} if command == "test" else used)


def _check_repeated(line: CommandLine) -> None:
    """Refuse an option that is given twice with different values."""
    from lightning_modules.callbacks.metrics_file import running_as_stage

    # a study puts its options before the command line's, W&B's agent a trial's behind them
    if running_as_stage() or os.environ.get("WANDB_SWEEP_ID"):
        return
    first: dict[str, str] = {}
    for name, words in line.options:
        plain, value = name.replace("init_args.", ""), _value(words)
        if plain.endswith("+") or plain == "ckpt_path":
            continue
        if first.setdefault(plain, value) != value:
            raise InputError(
                f"--{name} is given twice, {first[plain]} and {value}: leave one of them out."
            )


def _value(words: list[str]) -> str:
    return " ".join(filter(None, [words[0].partition("=")[2], *words[1:]]))


def _turns_off(plain: str, words: list[str]) -> bool:
    """Whether an option only turns off what is off anyway."""
    return _value(words).lower() in ("null", "none") or (
        (plain.startswith("trainer.enable_") or plain == "trainer.logger")
        and _value(words).lower() == "false"
    )
