"""The command ``fit``: run folder, callbacks and logger, card, summary."""

import json
import math
import os
import time
from contextlib import nullcontext, suppress
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, EarlyStopping

from datamodules.base import CohortData
from datamodules.volumes.datamodule import BraTSPatchDataModule
from errors import InputError
from evaluation.figures.curves import training_curves_png
from evaluation.metrics.postprocessing import Postprocessing
from files import write_atomically
from lightning_modules.base import TrainingModule
from lightning_modules.callbacks.metrics_file import (
    MetricsFile,
    ValidationGallery,
    read_metrics,
    running_as_stage,
)
from lightning_modules.callbacks.resuming import Ending, checkpoints
from lightning_modules.callbacks.run_progress import RunProgress
from lightning_modules.contracts.settings import FitSettings
from lightning_modules.run_logger import wandb_run
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.weights.checkpoints import is_whole, read_card, remove_leftovers, restate
from studies.runs.checkpoint_settings import settings_of_run
from studies.runs.environment import (
    git_revision,
    hardware,
    is_main_process,
    other_hardware,
    peak_memory_gb,
    versions,
)
from studies.runs.exposure import Exposure, check_checkpoint
from studies.runs.input_record import check_writable
from studies.runs.planning import (
    Plan,
    architecture,
    former_runs,
    postprocessing_of,
    replace_strings,
)
from studies.runs.run import SCHEMA
from studies.runs.stages import begun_stage, train_stages
from studies.settings.trainer import (
    choose_device,
    device_count,
    execution_of,
    hand_over_optimisation,
    limit_of_steps,
    with_whole_checkpoints,
)
from studies.settings.trainer_check import check_interval, explained
from studies.tracking import weights_and_biases
from studies.tracking.artifacts import sources
from studies.training.likeness import described_training
from studies.training.session import Session
from studies.training.summary import training_summary

TRAINED = "trained"  # status of a trained run whose figures and W&B log are unfinished


class AlreadyFinishedError(Exception):
    """The requested training is finished already; the message is its summary."""


class Training(Session):
    """A session of ``fit``.

    Args:
        plan: the resolved training with its stages.
        arguments: the parsed arguments of ``fit``.
    """

    def __init__(self, plan: Plan, arguments: Namespace) -> None:
        super().__init__(plan.run, arguments)
        self.plan = plan
        self.resume = bool(arguments.resume)
        self.overwrite = bool(arguments.overwrite)
        self.rehearsal = bool(arguments.trainer.fast_dev_run)  # leaves no reusable files
        self.gallery = ValidationGallery(self.run.folder / "overlays")
        self.filed: dict[str, Any] = {}  # settings of the W&B run
        self.ending = Ending()

    def prepare(self) -> None:
        """Train missing stages, set their checkpoints in the configuration, begin the run.

        Raises:
            AlreadyFinishedError: when the run is finished.
            InputError: when it was begun before, and neither --resume nor --overwrite is given; or
                when an upstream checkpoint does not fit.
        """
        arguments = self.arguments
        if not self.rehearsal:
            if self.run.finished and not self.overwrite:
                if not is_main_process():  # or it would wait for the others
                    raise AlreadyFinishedError
                weights_and_biases.answer_agent(arguments.trainer, self.plan)
                summary = training_summary(self.run, repeated=True)
                raise AlreadyFinishedError("\n".join([summary, *self._other_rules()]))
            check_writable(self.run.folder, f"--runs_dir {arguments.runs_dir}")
            check_interval(self.plan.config["trainer"], self.plan.data)
        if is_main_process() and not self.rehearsal:
            self.check_started()
            if self.resume and not self.run.started and not running_as_stage():
                folder = self.run.folder
                print(f"Note: there is nothing to resume in {folder}: it begins.", flush=True)
            for notice in former_runs(self.plan):
                print(f"Note: {notice}", flush=True)
        for name, file in self.plan.checkpoints().items():
            check_checkpoint(file, self.plan, name)
        arguments.trainer.precision = self.plan.config["trainer"]["precision"]
        self.filed = weights_and_biases.configure(arguments.trainer, self.run, self.plan)
        if not self.rehearsal:
            train_stages(self.plan, side_by_side=self._side_by_side(arguments))
        paths = {name: str(file) for name, file in self.plan.weights().items()}
        for name, stage in self.plan.stages.items():
            if stage.run.finished:
                check_checkpoint(stage.run.best_checkpoint, self.plan)
                paths[name] = str(stage.run.best_checkpoint)
            else:  # a rehearsal
                paths[name] = architecture(stage)
        for name, value in self.plan.config["model"]["init_args"].items():
            resolved = replace_strings(value, lambda text: paths.get(text, text))
            if resolved != value or name in self.plan.adoption.model:
                arguments.model.init_args[name] = resolved

    def _other_rules(self) -> list[str]:
        """Return a notice where the finished run was trained with other post-processing."""
        requested = postprocessing_of(self.plan.config["model"])
        model = settings_of_run(self.run).config.get("model")
        trained = postprocessing_of(model) if model else requested
        if requested == trained:
            return []
        return [
            f"Note: it was trained with post-processing {trained or 'none'}, which changes no "
            f"training; test and predict apply that of this experiment, {requested or 'none'}."
        ]

    def check_started(self) -> None:
        """Refuse what was begun before without ``--resume``; move it aside with ``--overwrite``."""
        run = self.run
        if self.overwrite:
            run.discard()
        elif not self.resume and (begun := run if run.started else begun_stage(self.plan)):
            what = "This training" if begun is run else f"Its stage {begun.experiment}"
            raise InputError(
                f"{what} was begun before and not finished ({begun.folder}): repeat the command "
                "with --resume to go on from its last epoch, or with --overwrite to start again."
            )

    @staticmethod
    def _side_by_side(arguments: Namespace) -> bool:
        trainer = arguments.trainer
        launched = {"RANK", "LOCAL_RANK", "SLURM_PROCID"} & set(os.environ)
        on_cpu = choose_device(trainer.accelerator) == "cpu"
        return on_cpu and trainer.devices in ("auto", 1, "1") and not launched

    def equip(self, model: TrainingModule, data: CohortData, settings: dict[str, Any]) -> None:
        """Set the trainer's callbacks and folder, and the model's card."""
        precision = str(self.plan.config["trainer"]["precision"])
        on_cpu = choose_device(settings.get("accelerator", "auto")) == "cpu"
        model.check_patch(data.patch_size, bf16_on_cpu=on_cpu and precision.startswith("bf16"))
        data.loader_processes(device_count({**settings, "num_nodes": 1}), device_count(settings))
        run = self.run
        progress = run.progress_file if running_as_stage() else None
        given = [one for one in settings.get("callbacks") or [] if concerns(one, model)]
        callbacks = [*given, RunProgress(run.experiment, progress)]
        if not self.rehearsal:
            callbacks += [MetricsFile(run.metrics_file), self.gallery]
            callbacks += checkpoints(run.checkpoints, model)
            settings["plugins"] = with_whole_checkpoints(settings.get("plugins"))
        clip = None if model.automatic_optimization else hand_over_optimisation(model, settings)
        max_steps = limit_of_steps(settings)
        self.ending = Ending(max_steps)
        callbacks.insert(0, self.ending)
        settings.update(
            callbacks=callbacks,
            default_root_dir=None if self.rehearsal else run.folder,
            enable_model_summary=False,
        )
        model.configure_for_fit(
            FitSettings(
                patch_size=tuple(data.patch_size),
                seed=int(self.plan.config["seed_everything"]),
                augmented=bool(data.augmentation) or data.modality_dropout > 0,
                gradient_clip_val=clip,
                max_steps=max_steps,
                compiler=self.plan.config["trainer"].get("compile"),
                prevalence=data.prevalence if isinstance(data, BraTSPatchDataModule) else None,
                card=self._card(),
            )
        )

    def _card(self) -> dict[str, Any]:
        plan = self.plan
        split, hashes = plan.data.split, plan.data.case_hashes()
        exposure = Exposure.of_split(split, hashes)
        upstream = [s.run.best_checkpoint for s in plan.stages.values() if s.run.finished]
        upstream += plan.checkpoints().values()
        cards = [read_card(file) for file in upstream]
        for card in cards:
            exposure.add(Exposure.of_card(card, paper=split.selected_on_test))
        return _plain(
            {
                "model": plan.config["model"],
                "config": plan.config,
                "data": plan.data.identity(),
                "label_conventions": plan.data.conventions(),
                "split": split.to_dict(),
                **exposure.to_dict(),
                **described_training(plan.data, cards),
                "run": {"experiment": self.run.experiment, "id": self.run.id},
                "stages": {name: stage.run.id for name, stage in plan.stages.items()},
                "overlays": plan.line.overlays,
                "versions": versions(),
                "git": git_revision(),
            }
        )

    def _run(self, trainer: L.Trainer, model: TrainingModule, data: CohortData) -> None:
        """Train, or validate once where nothing is trainable; then print the summary."""
        if self.rehearsal:
            trainer.fit(model, datamodule=data)
            print("Rehearsal done (fast_dev_run): nothing was kept.")
            return
        run, began = self.run, time.monotonic()
        with run.lock() if trainer.is_global_zero else nullcontext():
            if run.manifest().get("status") != TRAINED:
                self._train(trainer, model, data)
                self._check_selected(trainer, model)
                if trainer.is_global_zero:
                    if self.resume:  # it may have begun with other rules, which change no weight
                        rules = _plain(postprocessing_of(self.plan.config["model"]))
                        restate(run.best_checkpoint, postprocessing=rules)
                    logged = wandb_run(trainer)
                    run.update_manifest(
                        status=TRAINED,
                        wall_seconds=round(self.ending.before + time.monotonic() - began, 1),
                        peak_memory_gb=peak_memory_gb(),
                        scores=self._scores(model),
                        validation_cases=self.gallery.best_rows,
                        # where the row of the test continues
                        wandb_step=0 if logged is None else logged.step,
                    )
            if trainer.is_global_zero:
                self._conclude(trainer)

    def _train(self, trainer: L.Trainer, model: TrainingModule, data: CohortData) -> None:
        if trainer.is_global_zero:
            self.begin(trainer, model)
        if model.has_nothing_to_train:
            self._validate_once(trainer, model, data)
        else:
            path = self._resumed_checkpoint(is_main=trainer.is_global_zero)
            with explained():
                trainer.fit(model, datamodule=data, ckpt_path=path, weights_only=True)

    def _check_selected(self, trainer: L.Trainer, model: TrainingModule) -> None:
        """Refuse to finish a training that ended before any validation."""
        if self.gallery.best_score == -math.inf and model.monitor not in trainer.callback_metrics:
            raise InputError(
                f"{self.run.folder} ended before its first validation, so no checkpoint was "
                "selected: give it more epochs or time (trainer.max_epochs, trainer.max_time), or "
                "validate earlier."
            )

    def _conclude(self, trainer: L.Trainer) -> None:
        """Draw and log the results of a training; if killed, --resume repeats only this."""
        run, logged = self.run, wandb_run(trainer)
        rows = read_metrics(run.metrics_file)
        if rows:
            training_curves_png(rows, run.folder / "curves.png", run.experiment)
        for notice in weights_and_biases.conclude(logged, run, sources(self.plan)):
            print(f"Note: {notice}", flush=True)
        run.update_manifest(
            status="finished",
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%S"),
            wandb=weights_and_biases.folders(run),
        )
        weights_and_biases.conclude_manifest(logged, run)
        print(training_summary(run))

    def _resumed_checkpoint(self, *, is_main: bool) -> str | None:
        """Return the checkpoint to resume from; an unreadable one is moved aside."""
        last = self.run.last_checkpoint
        if not self.resume or not last.is_file():
            return None
        if is_whole(last):
            return str(last)
        if is_main:
            aside = last.with_name("last.damaged")
            with suppress(FileNotFoundError):
                last.replace(aside)
            print(
                f"Note: {last} is damaged and nothing can go on from it: it is kept as "
                f"{aside.name}, and this training begins again with its first epoch.",
                flush=True,
            )
        return None

    def begin(self, trainer: L.Trainer, model: TrainingModule) -> None:
        """Write the files of a run that are known before its first step, and print its notes."""
        run, plan = self.run, self.plan
        remove_leftovers(run.checkpoints)
        for notice in [*model.remarks(), *plan.data.notices, *self.not_repeatable()]:
            print(f"Note: {notice}", flush=True)
        run.write_config(_plain(plan.config))
        write_atomically(
            run.folder / "split.json", json.dumps(plan.data.split.to_dict(), indent=2) + "\n"
        )
        run.update_manifest(
            status="running",
            experiment=run.experiment,
            id=run.id,
            overlays=plan.line.overlays,
            command=["lightning", "fit", *plan.line.typed()],
            stages={name: str(stage.run.folder) for name, stage in plan.stages.items()},
            determinants=plan.determinants,
            schema=SCHEMA,
            cohort=plan.data.fingerprint(),
            voxels=plan.data.voxel_fingerprint(),
            seed=plan.config["seed_everything"],
            parameters=model.parameter_counts(),
            per_slice=model.per_slice,
            postprocessing=str(_rules(model) or "none"),
            remarks=model.remarks(),
            synthetic=model.card["synthetic"],
            foreign={**plan.adoption.described(), "unknown": model.card.get("unknown", [])},
            execution=execution_of(trainer, plan.config["trainer"]),
            versions=versions(),
            git=git_revision(),
            hardware=hardware(),
            tracking=self.filed,
        )

    def not_repeatable(self) -> list[str]:
        """Return the reasons why repeating this training may give another result."""
        clock = self.plan.config["trainer"].get("max_time")
        timed = [f"trainer.max_time {clock} ends it by the clock: elsewhere it ends elsewhere."]
        found = timed if clock else []
        if not self.resume or not self.run.last_checkpoint.is_file():
            return found
        if changed := other_hardware(self.run.manifest().get("hardware", {})):
            found.append(f"{', '.join(changed)}: the last digits may not be those of one machine.")
        return found

    def _validate_once(self, trainer: L.Trainer, model: TrainingModule, data: CohortData) -> None:
        trainer.validate(model, datamodule=data, verbose=False)
        trainer.save_checkpoint(self.run.best_checkpoint)
        self.gallery.keep_best(trainer, model)
        self.gallery.publish(trainer)

    def _scores(self, model: TrainingModule) -> dict[str, float]:
        rows = self.gallery.best_rows
        if not rows:  # pretraining has no regions
            best = self.gallery.best_score
            return {model.monitor: best if model.monitor_mode == "max" else -best}
        names = [name for name in rows[0] if name != "case_id"]
        return {
            f"val/dice/{name}": sum(float(row[name]) for row in rows) / len(rows) for name in names
        }


def _rules(model: TrainingModule) -> Postprocessing | None:
    """Return the post-processing of a model, None if it has none."""
    return model.usage.postprocessing if isinstance(model, SegmentationModule) else None


def concerns(callback: Callback, model: TrainingModule) -> bool:
    """Whether a callback applies to this stage: early stopping in an overlay goes to all stages."""
    watches = isinstance(callback, EarlyStopping) and callback.monitor == TrainingModule.monitor
    return not watches or model.monitor == TrainingModule.monitor


def _plain(value: Any) -> Any:
    """Return the value in plain types as JSON has them, which ``weights_only`` requires."""
    return json.loads(json.dumps(value, default=str))
