"""Using trained models: what happens around ``validate``, ``test`` and ``predict``."""

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from jsonargparse import Namespace

from errors import InputError
from evaluation.metrics import BRATS, EMPTY_RULES
from evaluation.postprocessing import Postprocessing, effect_lines
from evaluation.reliability import write_calibration
from evaluation.tables import mean_scores, write_csv
from lightning_modules.callbacks import PredictionWriter
from lightning_modules.checkpoints import load_module, read_checkpoint
from lightning_modules.ensemble import EnsembleModule
from lightning_modules.progress import RunProgress
from lightning_modules.segmentation import UNPROCESSED, SegmentationModule
from studies import tracking
from studies.recall import Recall, check_preparation
from studies.summary import prediction_summary, test_summary, validation_summary


def stored_split(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the split of the first card, its training part widened by all that any member saw.

    An ensemble, or a fusion over backbones that were trained elsewhere, has seen more patients
    than its own split names.
    """
    stored = dict(cards[0]["split"])
    hashes, train = dict(stored["hashes"]), set(stored["train"])
    for card in cards:
        for patient in card["seen"]:
            if patient["case_id"] not in stored["val"]:
                train.add(patient["case_id"])
            hashes.setdefault(patient["case_id"], patient["content_hash"])
    return {**stored, "train": sorted(train), "hashes": hashes}


class Application:
    """What happens around one ``validate``, ``test`` or ``predict``.

    Args:
        subcommand: validate, test or predict.
        recalled: the checkpoints and the settings they bring along.
        arguments: the parsed arguments of the subcommand.
    """

    def __init__(self, subcommand: str, recalled: Recall, arguments: Namespace) -> None:
        self.subcommand = subcommand
        self.recalled = recalled
        self.arguments = arguments
        self.run = recalled.run
        self.failures: dict[str, str] = {}
        self.trained_postprocessing: Postprocessing | None = None

    def prepare(self, arguments: Namespace) -> None:
        """Take the network and its arithmetic from the checkpoint, whatever overlays say."""
        arguments.trainer.precision = "32-true"  # the model chooses inference precision itself
        if self.subcommand != "test":
            arguments.trainer.logger = False
        else:
            tracking.configure_again(arguments.trainer, self.run, self.recalled)

    def equip(self, model: Any, data: Any, settings: dict[str, Any]) -> None:
        """Load the weights, hand the stored split to the data, choose the callbacks."""
        if not isinstance(model, SegmentationModule):
            raise InputError(
                f"{self.run.experiment} is a first stage and segments nothing, so it is neither "
                "scored nor predicted with: name it as model.weights of an experiment that builds "
                "upon it, such as experiments/zhang2021.yaml."
            )
        first = self.recalled.checkpoints[0]
        checkpoint = read_checkpoint(first)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        check_preparation(model.card, data.identity(), first)
        data.stored_split = stored_split(self.recalled.cards)
        callbacks: list[Any] = [RunProgress(self.run.experiment)]
        self._choose_postprocessing(model)
        if self.subcommand == "test":
            model.empty_rule = EMPTY_RULES[self.arguments.rule]
        if self.subcommand == "predict":
            self._choose_maps(model)
            model.tta = self.arguments.tta
            callbacks.append(
                PredictionWriter(
                    Path(self.arguments.output),
                    probabilities=bool(self.arguments.probabilities),
                    all_grids=bool(self.arguments.all_grids),
                )
            )
        tracking.tidy(settings.get("logger"))
        settings.update(
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=self.run.folder,
        )

    def _choose_postprocessing(self, model: Any) -> None:
        choice = getattr(self.arguments, "postprocessing", "as_trained")
        self.trained_postprocessing = model.postprocessing
        if choice == "off":
            model.postprocessing = None
        elif choice == "on" and model.postprocessing is None:
            model.postprocessing = Postprocessing()

    def _choose_maps(self, model: Any) -> None:
        if not self.arguments.maps:
            return
        if len(self.recalled.checkpoints) > 1 or not model.map_channels():
            raise InputError(
                f"--maps: {self.run.experiment} shows no maps of what it looks at: leave "
                "the option out, or use one checkpoint of a network that has some, such as one of "
                "experiments/zhou2022.yaml."
            )
        model.shows_maps = True

    def execute(self, trainer: L.Trainer, model: Any, data: Any) -> None:
        """Run the command and say what came of it."""
        try:
            self._execute(trainer, model, data)
        finally:
            tracking.finish()

    def _execute(self, trainer: L.Trainer, model: Any, data: Any) -> None:
        others: list[Any] = [load_module(path) for path in self.recalled.checkpoints[1:]]
        if others:
            model = EnsembleModule([model, *others])
        if self.subcommand == "predict":
            trainer.predict(model, datamodule=data, return_predictions=False)
            self.failures = dict(data.failures)
            if trainer.is_global_zero:
                print(prediction_summary(Path(self.arguments.output), self.failures))
        elif self.subcommand == "validate":
            trainer.validate(model, datamodule=data, verbose=False)
            if trainer.is_global_zero:
                print(validation_summary(model.validation_cases, self.run, model.per_slice))
        else:
            trainer.test(model, datamodule=data, verbose=False)
            if trainer.is_global_zero:
                folder = self._results_folder(data, model)
                write_csv(model.test_rows, folder / "per_case.csv")
                if folder == self.run.folder and self._as_trained(data):
                    self.run.update_manifest(test_scores=mean_scores(model.test_rows))
                notices = [*model.remarks(), *data.notices]
                if model.postprocessing is not None:
                    notices.append(
                        f"post-processing: {model.postprocessing}; means before and after"
                    )
                    notices += effect_lines(model.test_rows, UNPROCESSED)
                if model.reliability:
                    title = f"{self.run.experiment} {self.run.id}"
                    notices += write_calibration(model.reliability, folder, title)
                print(test_summary(model.test_rows, folder / "per_case.csv", self.run, notices))

    def _as_trained(self, data: Any) -> bool:
        """Whether this is the run's own test: its best checkpoint, its settings, all its cases."""
        card, identity = self.recalled.cards[0], data.identity()
        stored = {name: value for name, value in card["data"].items() if name != "split"}
        own = self.run.best_checkpoint.resolve()
        return (
            [path.resolve() for path in self.recalled.checkpoints] == [own]
            and all(identity.get(name) == value for name, value in stored.items())
            and sorted(data.split.test) == sorted(card["split"]["test"])
        )

    def _results_folder(self, data: Any, model: Any) -> Path:
        """Return the run's own folder for its stored split, one inside it for anything else."""
        if self.arguments.results_dir:
            return Path(self.arguments.results_dir)
        if data.split.protocol == "external":
            return self.run.folder / f"external-{data.fingerprint()[:8]}"
        changed = []
        if model.postprocessing != self.trained_postprocessing:
            changed.append(f"postprocessing-{self.arguments.postprocessing}")
        if model.empty_rule is not BRATS:
            changed.append(f"rule-{model.empty_rule.name}")
        return self.run.folder.joinpath(*changed)
