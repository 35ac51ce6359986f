"""The commands on trained models: ``validate``, ``test`` and ``predict``."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from jsonargparse import Namespace

from datamodules.base import CohortData
from datamodules.nifti.headers import SYNTHETIC_TRAINING
from datamodules.registration.folder import REGISTERED
from datamodules.slices.random_split import cases_of
from errors import InputError
from evaluation.figures.reliability import CALIBRATION, write_calibration
from evaluation.metrics.postprocessing import Postprocessing, effect_lines
from evaluation.metrics.scores import BRATS, EMPTY_RULES
from evaluation.tables.per_case import mean_scores, write_csv
from lightning_modules.base import TrainingModule
from lightning_modules.callbacks.case_gallery import CaseGallery
from lightning_modules.callbacks.metrics_file import running_as_stage
from lightning_modules.callbacks.prediction_writer import VOLUMES, PredictionWriter
from lightning_modules.callbacks.run_progress import RunProgress
from lightning_modules.contracts.settings import UseSettings
from lightning_modules.ensemble import EnsembleModule
from lightning_modules.segmentation import UNPROCESSED, SegmentationModule
from lightning_modules.weights.checkpoints import load_module, load_weights, read_checkpoint
from outputs import Outputs, lies_in, refuse_among_inputs
from studies.jobs.graph import VARIANTS
from studies.runs.checkpoint_settings import RULES, CheckpointSettings, check_preparation
from studies.runs.environment import is_main_process
from studies.runs.exposure import only_synthetic, stored_split
from studies.runs.input_record import InputRecord, check_writable
from studies.runs.planning import file_hash, postprocessing_of
from studies.scores.tested import TESTED
from studies.tracking.weights_and_biases import conclude_test, configure_again
from studies.training.likeness import Likeness
from studies.training.session import Session
from studies.training.summary import prediction_summary, test_summary, validation_summary

# Entries of a data identity that change no test, and those that follow from another cohort.
OF_TRAINING = (
    *("batch_size", "patches_per_epoch", "augmentation", "modality_dropout", "healthy_share"),
    *("empty_fraction", "seed", "phantoms", "train_patients", "slices_per_epoch"),
)
OF_A_COHORT = ("protocol", "filled", "registration")
# Data settings that change no mask, or name the folder of the patients.
NO_MASK = (
    *OF_TRAINING,
    *("num_workers", "cache_dir", "allow_seen_patients", "patient", "root", "images"),
)
PREDICTIONS = "prediction.json"  # input record of a folder of predictions
TEST, TABLE = "test.json", "per_case.csv"  # input record and result of a test
COLLECTION = ("imagesTr", "imagesTs")  # subfolders with images of a collection


class Application(Session):
    """A session of ``validate``, ``test`` or ``predict``.

    Args:
        subcommand: validate, test or predict.
        restored: the checkpoints with their settings.
        arguments: the parsed arguments of the subcommand.
    """

    def __init__(self, subcommand: str, restored: CheckpointSettings, arguments: Namespace) -> None:
        super().__init__(restored.run, arguments)
        self.subcommand = subcommand
        self.restored = restored
        self.failures: dict[str, str] = {}
        self.trained_postprocessing: Postprocessing | None = None
        self.gallery = CaseGallery()
        self.logger: Any = None
        self.record: InputRecord | None = None  # of the folder of predictions or scores
        synthetic = all(map(only_synthetic, restored.cards))
        self.remark = SYNTHETIC_TRAINING if synthetic else ""

    def prepare(self) -> None:
        """Check the folder of results, and leave precision to the checkpoint."""
        arguments = self.arguments
        if self.subcommand == "predict":
            self.record = self._input_record()
            self._refuse_among_patients()
            # in every process, as one that continued alone would wait for the others
            check_writable(Path(arguments.output), f"--output {arguments.output}")
            self.record.refuse_others(
                "--output", "move that aside", overwrite=bool(arguments.overwrite)
            )
        if self.subcommand == "test" and arguments.results_dir:
            self._refuse_other_results(Path(arguments.results_dir))
        elif self.subcommand == "test":
            folder = self.run.folder
            check_writable(folder, f"the run's folder {folder}", "folder as --results_dir")
        arguments.trainer.precision = "32-true"  # the model chooses inference precision itself
        if self.subcommand != "test":
            arguments.trainer.logger = False
        else:
            configure_again(arguments.trainer, self.run, self.restored)

    def _input_record(self) -> InputRecord:
        """Return the record of networks, patients and settings for the folder of results."""
        arguments, settings = self.arguments, self.arguments.data.init_args.as_dict()
        inputs = {
            "checkpoint": " + ".join(
                f"{card['run']['experiment']}/{card['run']['id']} ({file_hash(path)[:12]})"
                for path, card in zip(self.restored.checkpoints, self.restored.cards, strict=True)
            ),
            "patients": " ".join(str(path.resolve()) for path in self._patients()) or "phantoms",
            **{name: arguments[name] for name in ("tta", "rule") if name in arguments},
            "postprocessing": arguments.postprocessing,
            "model": " ".join(self.restored.model_words) or "as trained",
            "data": str(arguments.data.class_path).rpartition(".")[2],
            **{f"data.{name}": str(settings[name]) for name in settings if name not in NO_MASK},
        }
        if self.subcommand == "predict":
            return InputRecord(Path(arguments.output) / PREDICTIONS, VOLUMES, inputs)
        limit = arguments.trainer.get("limit_test_batches")
        inputs |= {"limit_test_batches": str(limit)} if limit is not None else {}
        return InputRecord(Path(arguments.results_dir) / TEST, TABLE, inputs)

    def _refuse_other_results(self, folder: Path) -> None:
        """Refuse a folder in which a test would overwrite other scores."""
        if lies_in(folder, self.run.folder / VARIANTS):
            return  # from a benchmark, which names the folder after the test
        check_writable(folder, f"--results_dir {folder}")
        self.record = self._input_record()
        self.record.refuse_others("--results_dir")
        names = [TABLE, *CALIBRATION, TEST, TESTED]
        read = [*self._patients(), *self.restored.checkpoints]
        Outputs(folder, "--results_dir").check(names, read, unlisted=self.record.unlisted())

    def _patients(self) -> list[Path]:
        """Return the files of a single patient, or the folder of the cohort; empty for phantoms."""
        data = self.arguments.data.init_args
        given = (data.images or {}).values() or filter(None, [data.root])
        return [Path(word).expanduser() for word in given]

    def _refuse_among_patients(self) -> None:
        """Refuse a folder where predictions would later be read as patients' files."""
        data, folder = self.arguments.data.init_args, Path(self.arguments.output)
        patients = self._patients()
        root = patients[0] if patients and not data.images else None
        if root is not None and root.name in COLLECTION:
            root = root.parent
        refuse_among_inputs(folder, "--output", root, patients)

    def _begin(self, record: InputRecord, names: Sequence[str], inputs: Sequence[Path]) -> None:
        """Check all files to be written, then move other predictions aside.

        Args:
            record: record of the folder.
            names: names of the files to be written.
            inputs: files of the patients.
        """
        outputs = Outputs(
            Path(self.arguments.output),
            "--output",
            overwrite=bool(self.arguments.overwrite),
            can_overwrite=True,
        )
        needed = [*self._patients(), *self.restored.checkpoints]
        named, unlisted = [*names, PREDICTIONS], record.unlisted()
        changed = outputs.check(named, [*inputs, *needed], unlisted=unlisted)
        if is_main_process():
            self.make_room(record, changed)

    def make_room(self, record: InputRecord, changed: Sequence[str] = ()) -> None:
        """Move other predictions aside, after all other checks.

        Args:
            record: record of the folder.
            changed: results that the user changed, or that an earlier version wrote.
        """
        if record.others() or changed:
            needed = [Path.cwd(), *self._patients(), *self.restored.checkpoints]
            aside = record.move_aside(needed, changed)
            print(f"Note: what {self.arguments.output} held lies in {aside} now.", flush=True)

    def equip(self, model: TrainingModule, data: CohortData, settings: dict[str, Any]) -> None:
        """Load the weights, pass the stored split to the data, choose the callbacks."""
        if not isinstance(model, SegmentationModule):
            raise InputError(
                f"{self.run.experiment} is a first stage and segments nothing, so it is neither "
                "scored nor predicted with: name it as model.weights of an experiment that builds "
                "upon it, such as experiments/zhang2021.yaml."
            )
        first = self.restored.checkpoints[0]
        checkpoint = read_checkpoint(first)
        load_weights(model, checkpoint, first)
        check_preparation(model.card, data.identity(), first)
        data.stored_split = stored_split(self.restored.cards)
        callbacks: list[Any] = [RunProgress(self.run.experiment, self._progress_file())]
        self.trained_postprocessing = Postprocessing.of(postprocessing_of(model.card["model"]))
        model.configure_for_use(self._usage(model))
        if self.subcommand == "predict":
            record = self.record
            likeness = Likeness.of_cards(str(first), self.restored.cards)
            if likeness.notice and is_main_process():
                print(f"Note: {likeness.notice}", flush=True)
            callbacks.append(
                PredictionWriter(
                    Path(self.arguments.output),
                    probabilities=bool(self.arguments.probabilities),
                    all_grids=bool(self.arguments.all_grids),
                    begin=partial(self._begin, record) if record else None,
                    announce=record.write if record else None,
                    unlike=likeness.findings,
                    remark=self.remark,
                )
            )
        # not given to Lightning: whether this is the run's own test is known only at the end
        self.logger = settings.get("logger")
        if self.logger:
            callbacks.append(self.gallery)
        settings.update(
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=self.run.folder,
        )

    def _usage(self, model: SegmentationModule) -> UseSettings:
        """Return the settings with which the command applies the model."""
        arguments, rules = self.arguments, model.usage.postprocessing
        choice = getattr(arguments, "postprocessing", "as_trained")
        if choice != "as_trained":
            rules = None if choice == "off" else rules or Postprocessing()
        if self.subcommand == "predict":
            self._check_maps(model)
            return UseSettings(rules, tta=arguments.tta, shows_maps=bool(arguments.maps))
        empty_rule = EMPTY_RULES[arguments.rule] if self.subcommand == "test" else BRATS
        return UseSettings(rules, empty_rule)

    def _check_maps(self, model: SegmentationModule) -> None:
        """Refuse --maps where the network has no maps."""
        if not self.arguments.maps:
            return
        if len(self.restored.checkpoints) > 1 or not model.map_channels():
            raise InputError(
                f"--maps: {self.run.experiment} has no maps: leave "
                "the option out, or use one checkpoint of a network that has some, such as one of "
                "experiments/zhou2022.yaml."
            )

    def _check_grids(self, data: CohortData) -> None:
        """Refuse --all_grids where all modalities share one grid."""
        if not self.arguments.all_grids:
            return
        raw = hasattr(data, "source") and any(
            case.layout == REGISTERED for case in data.cases.values()
        )
        if not raw:
            raise InputError(
                "--all_grids is for raw exams, whose modalities have grids of their own; here all "
                "share one: leave it out."
            )

    def _progress_file(self) -> Path | None:
        """Return the progress file of a test that another process of this project started."""
        if self.subcommand != "test" or not running_as_stage():
            return None
        folder = Path(self.arguments.results_dir or self.run.folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "progress.json"

    def _run(self, trainer: L.Trainer, model: TrainingModule, data: CohortData) -> None:
        """Validate, test or predict, and print the summary."""
        assert isinstance(model, SegmentationModule)  # equip refuses others
        if len(self.restored.checkpoints) > 1:
            model = self._ensemble(model)
        if self.subcommand == "predict":
            self._check_grids(data)
            trainer.predict(model, datamodule=data, return_predictions=False)
            self.failures = dict(data.failures)
            if trainer.is_global_zero:
                print(prediction_summary(Path(self.arguments.output), self.failures, self.remark))
                for notice in data.notices:
                    print(f"Note         {notice}")
        elif self.subcommand == "validate":
            trainer.validate(model, datamodule=data, verbose=False)
            if trainer.is_global_zero:
                print(validation_summary(model.validation_cases, self.run, model.per_slice))
        else:
            trainer.test(model, datamodule=data, verbose=False)
            if trainer.is_global_zero:
                folder = self.results_folder(data, model)
                outputs, table, calibration = Outputs(folder, "--results_dir"), folder / TABLE, []
                if model.reliability:
                    title = f"{self.run.experiment} {self.run.id}"
                    calibration = write_calibration(model.reliability, outputs, title)
                if self.record is not None:
                    self.record.write()
                described = {
                    "cohort": data.fingerprint(),
                    "protocol": data.split.protocol,
                    "postprocessing": str(model.usage.postprocessing or "none"),
                }
                outputs.settle(TESTED, json.dumps(described, indent=2) + "\n")
                # written last: it marks the test as done
                outputs.settle(TABLE, partial(write_csv, model.test_rows))
                if folder == self.run.folder:
                    self.run.update_manifest(test_scores=mean_scores(model.test_rows))
                    conclude_test(self.logger, self.run, model.test_rows, self.gallery)
                notices, details = [*model.remarks(), *data.notices], []
                if self.remark and not all(case.synthetic for case in data.cases.values()):
                    notices.append(self.remark)
                if (rules := model.usage.postprocessing) is not None:
                    notices.append(f"post-processing: {rules}; means before and after:")
                    lines = effect_lines(model.test_rows, UNPROCESSED)
                    details += [f"  {line}" for line in lines]
                details += calibration
                print(test_summary(model, self.restored, table, notices, details))

    def _ensemble(self, first: SegmentationModule) -> EnsembleModule:
        """Return the ensemble of the models of all checkpoints."""
        members = [first, *map(_load_segmentation, self.restored.checkpoints[1:])]
        unlike = any(one.usage.postprocessing != first.usage.postprocessing for one in members)
        if unlike and getattr(self.arguments, "postprocessing", "off") == "as_trained":
            raise InputError(
                "The members of this ensemble have different post-processing: say which with "
                "--postprocessing on or off."
            )
        return EnsembleModule(members)

    def _changes(self, data: CohortData, model: SegmentationModule) -> list[str]:
        """Name the differences to the run's own test, as folders for the results.

        The run's own test uses its best checkpoint and settings on all its test cases.
        """
        card, checkpoints, changes = self.restored.cards[0], self.restored.checkpoints, []
        if len(checkpoints) > 1:
            members = " ".join(str(card["run"]["id"]) for card in self.restored.cards)
            changes.append(f"ensemble-{_digest(members)}")
        elif checkpoints[0].resolve() != self.run.best_checkpoint.resolve():
            changes.append(f"checkpoint-{checkpoints[0].stem}")
        external = data.split.protocol == "external"
        if external:
            changes.append(f"external-{data.fingerprint()[:8]}")
        elif sorted(data.split.test) != sorted(card["split"]["test"]):
            changes.append(f"patients-{_digest(' '.join(sorted(data.split.test)))}")
        if len(model.test_rows) < len(cases_of(data.split.test, data.case_hashes())):
            changes.append("partial")  # as under trainer.limit_test_batches
        used = data.identity()
        named = ("split", "drop", *OF_TRAINING, *(OF_A_COHORT if external else ()))
        other = {name: used[name] for name in used if used[name] != card["data"].get(name)}
        if settings := {name: value for name, value in other.items() if name not in named}:
            changes.append(f"data-{_digest(json.dumps(settings, sort_keys=True))}")
        if data.drop != card["data"].get("drop", []):
            changes.append("-".join(["without", *(data.drop or ["none"])]))
        if words := [word for word in self.restored.model_words if not word.startswith(RULES)]:
            changes.append(f"model-{_digest(' '.join(words))}")
        rules = model.usage.postprocessing
        if rules != self.trained_postprocessing:
            choice = self.arguments.postprocessing
            if choice == "as_trained":  # in this command's experiment, which differs
                choice = "off" if rules is None else _digest(str(rules))
            changes.append(f"postprocessing-{choice}")
        if model.usage.empty_rule is not BRATS:
            changes.append(f"rule-{model.usage.empty_rule.name}")
        return changes

    def results_folder(self, data: CohortData, model: SegmentationModule) -> Path:
        """Return the run's folder for its own test, a folder inside it for any other test."""
        if self.arguments.results_dir:
            return Path(self.arguments.results_dir)
        return self.run.folder.joinpath(*self._changes(data, model))


def _load_segmentation(path: Path) -> SegmentationModule:
    """Load a further member of an ensemble."""
    module = load_module(path)
    if not isinstance(module, SegmentationModule):
        raise InputError(f"{path} holds a first stage, which segments nothing: leave it out.")
    return module


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
