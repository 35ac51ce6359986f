"""Commands that use a trained model: find its checkpoint and bring its settings back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import InputError
from lightning_modules.checkpoints import read_card
from studies.arguments import CommandLine
from studies.runs import Run, newest_finished

PREPARATION = (
    "spacing",
    "normalisation",
)  # what a network's input must have in common with training


@dataclass
class Recall:
    """What ``validate``, ``test`` and ``predict`` start from.

    Args:
        checkpoints: one file, or several that average as an ensemble.
        cards: what each says about itself.
        config: the configuration of its training, which the command line then changes.
        run: the run it belongs to.
        notice: how it was chosen, printed.
        model_words: settings of the network that the command line changes.
    """

    checkpoints: list[Path]
    cards: list[dict[str, Any]]
    config: dict[str, Any]
    run: Run
    notice: str
    model_words: list[str] = field(default_factory=list)


def recall(line: CommandLine, runs_dir: Path) -> Recall:
    """Find the checkpoints a command line means.

    Without ``--ckpt_path`` it is the newest finished run of the experiment.

    Raises:
        InputError: when there is none, or when several do not belong together.
    """
    given = [Path(value) for value in line.pop("ckpt_path")]
    if given:
        notice = "Using " + ", ".join(str(path) for path in given)
    else:
        found = newest_finished(runs_dir, line.experiment, line.overlays)
        if found is None:
            with_overlays = f" with {', '.join(line.overlays)}" if line.overlays else ""
            raise InputError(
                f"There is no finished run of {line.experiment}{with_overlays} below {runs_dir}: "
                f"train one with `lightning fit --config {line.configs[0]}`, or give --ckpt_path."
            )
        given = [found.best_checkpoint]
        notice = f"Using the newest finished run of {line.experiment}: {found.best_checkpoint}"
    cards = [read_card(path) for path in given]
    for path, card in zip(given[1:], cards[1:], strict=True):
        for name in PREPARATION:
            first, other = cards[0]["data"].get(name), card["data"].get(name)
            if first != other:
                raise InputError(
                    f"{path} was trained at {name} {other} and {given[0]} at {first}: "
                    "an ensemble needs members whose data is prepared alike."
                )
    card = cards[0]
    if card.get("config") is None:
        raise InputError(
            f"{given[0]} does not carry the configuration of its training: "
            "use a checkpoint that `lightning fit` wrote."
        )
    experiment, run_id = card["run"]["experiment"], card["run"]["id"]
    home = given[0].resolve().parent.parent
    if not (home / "manifest.json").is_file():  # the file was moved out of its run
        home = runs_dir / experiment / run_id
    changed = [word for name, words in line.options if name[:6] == "model." for word in words]
    return Recall(given, cards, card["config"], Run(experiment, run_id, home), notice, changed)


def check_preparation(card: dict[str, Any], identity: dict[str, Any], path: Path) -> None:
    """Refuse data prepared otherwise than the model's training data.

    Raises:
        InputError: naming the setting.
    """
    for name in PREPARATION:
        if card["data"].get(name) != identity.get(name):
            raise InputError(
                f"{path} was trained at {name} {card['data'].get(name)}, the data asked for has "
                f"{name} {identity.get(name)}: leave data.{name} as the checkpoint has it."
            )
