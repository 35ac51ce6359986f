"""The weights that come with the project, in the folder ``weights/``."""

from pathlib import Path
from typing import Any

from errors import InputError
from files import read_object, sha256_of
from lightning_modules.weights.checkpoints import KEY, read_checkpoint
from outputs import some
from studies.runs.exposure import only_synthetic
from studies.settings.command_line import ROOT, CommandLine, find_config

WEIGHTS = ROOT / "weights"
LARGEST_MB = 10.0  # of a checkpoint in the repository
CONTENT = {KEY, "state_dict"}  # of a shipped checkpoint: no optimiser, no callbacks


def find_shipped() -> Path:
    """Return the checkpoint that comes with the project.

    Raises:
        InputError: when there is none or more than one, or it is not the file of its manifest.
    """
    folder, found = WEIGHTS, sorted(WEIGHTS.glob("*.ckpt"))
    advice = "add --config FILE, for instance --config experiments/fusion.yaml, or --ckpt_path FILE"
    if not found:
        raise InputError(
            f"No experiment is given, and {folder} holds no weights to use instead: {advice}."
        )
    if len(found) > 1:
        raise InputError(
            f"No experiment is given, and {folder} holds more than one checkpoint "
            f"({some([path.name for path in found])}): {advice}."
        )
    check_file(found[0])
    return found[0]


def check_file(checkpoint: Path) -> dict[str, Any]:
    """Check that a shipped checkpoint is the file of its manifest; return the manifest.

    Raises:
        InputError: when it has no manifest, or is another file, or too large.
    """
    file = checkpoint.with_suffix(".json")
    restore = f"restore both files from the repository, or export {checkpoint.stem} again"
    if not file.is_file():
        raise InputError(f"{checkpoint} has no manifest {file.name} beside it: {restore}.")
    manifest = read_object(file)
    digest = sha256_of(checkpoint)
    if manifest.get("sha256") != digest:
        raise InputError(
            f"{checkpoint} is not the file that {file.name} describes (SHA-256 {digest[:12]} "
            f"instead of {str(manifest.get('sha256'))[:12]}): {restore}."
        )
    check_size(checkpoint)
    return manifest


def check_size(checkpoint: Path) -> None:
    """Refuse a checkpoint that is too large for the repository."""
    megabytes = checkpoint.stat().st_size / 1e6
    if megabytes > LARGEST_MB:
        raise InputError(
            f"{checkpoint} has {megabytes:.1f} MB, at most {LARGEST_MB:g} are shipped: train a "
            "smaller network (--model.size tiny)."
        )


def check_shipped(checkpoint: Path) -> dict[str, Any]:
    """Check a shipped checkpoint against its manifest and its model card; return the manifest.

    Raises:
        InputError: naming the first fault.
    """
    manifest = check_file(checkpoint)
    content = read_checkpoint(checkpoint)  # with weights_only
    card = content[KEY]
    if set(content) != CONTENT:
        others = some(sorted(set(content) ^ CONTENT))
        raise InputError(f"{checkpoint} differs from weights alone in {others}: export it again.")
    if card["run"] != manifest["run"]:
        raise InputError(
            f"{checkpoint} is of the run {card['run']}, its manifest of {manifest['run']}: export "
            "it again."
        )
    if not only_synthetic(card):
        raise InputError(f"{checkpoint} was trained on real patients, which is never shipped.")
    for config in CommandLine.parse(manifest["command"][2:]).configs:
        find_config(config)
    text = checkpoint.with_suffix(".md")
    if not text.is_file() or manifest["sha256"] not in text.read_text(encoding="utf-8"):
        raise InputError(f"{text} is no model card of {checkpoint.name}: export it again.")
    return manifest
