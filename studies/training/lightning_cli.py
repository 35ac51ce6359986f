"""``lightning fit|validate|test|predict``: LightningCLI with runs and stages."""

import logging
import os
import warnings
from argparse import SUPPRESS
from pathlib import Path
from typing import Any, Literal

import lightning as L  # noqa: N812, the name its own documentation uses
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from datamodules.base import CohortData
from datamodules.layouts.case_files import MODALITIES
from errors import InputError
from lightning_modules.callbacks.metrics_file import running_as_stage
from lightning_modules.weights.checkpoints import own_errors
from studies.runs.checkpoint_settings import CheckpointSettings
from studies.runs.planning import Planner
from studies.runs.process import stop_with_parent
from studies.runs.unused_options import HIDDEN, check_together, check_typed
from studies.settings.command_line import DEFAULTS, CommandLine
from studies.settings.compilation import check_compiler, compiler_of
from studies.settings.loss_check import check_loss
from studies.settings.option_help import BriefParser
from studies.settings.regions import share_regions
from studies.settings.trainer import precision_of_machine, repeatability
from studies.settings.trainer_check import build_trainer, check_trainer
from studies.settings.unknown_names import ExperimentParser, explain
from studies.training.applying import Application
from studies.training.fitting import Training
from studies.training.session import Session

LARGEST_SEED = 2**32 - 1  # of NumPy
DESCRIPTIONS = {
    "fit": "Train an experiment, and first the stages that it needs.",
    "validate": "Score a trained model on its validation patients.",
    "test": "Score a trained model on patients it never saw.",
    "predict": "Segment patients: NIfTI label maps, volumes and overlays.",
}
EXAMPLES = {
    "fit": (
        "lightning fit --config experiments/fusion.yaml",
        "lightning fit --config experiments/fusion.yaml --config experiments/scale/brats3d.yaml "
        "--data.root /data/BraTS2018",
    ),
    "validate": ("lightning validate --config experiments/fusion.yaml",),
    "test": (
        "lightning test --config experiments/fusion.yaml",
        "lightning test --config experiments/fusion.yaml --data.root /data/BraTS2018",
    ),
    "predict": (
        "lightning predict --config experiments/fusion.yaml --data.root NEW_PATIENTS "
        "--output predictions",
        "lightning predict --data.root NEW_PATIENTS --output predictions",
    ),
}


class ExperimentCLI(LightningCLI):
    """LightningCLI in subclass mode with the arguments of this project.

    Args:
        subcommand: fit, validate, test or predict.
        line: the words after it.
        restored: the checkpoints with their settings; None for fit.
    """

    def __init__(
        self, subcommand: str, line: CommandLine, restored: CheckpointSettings | None = None
    ) -> None:
        self.line = line
        self.restored = restored
        self.session: Session | None = None
        self.planned_data: CohortData | None = None  # of fit, prepared and split
        defaults = {"default_config_files": [str(DEFAULTS)], "exit_on_error": False}
        super().__init__(
            model_class=L.LightningModule,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            parser_class=ExperimentParser,
            seed_everything_default=0,
            parser_kwargs={
                "exit_on_error": False,
                **{name: dict(defaults) for name in self.subcommands()},
            },
            args=[subcommand, *line.words()],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        assert isinstance(parser, BriefParser)  # this CLI's `parser_class` is one
        parser.description = DESCRIPTIONS[subcommand]
        parser.examples = EXAMPLES[subcommand]
        for action in parser._actions:  # stored configurations contain them
            if action.dest in HIDDEN and (subcommand == "fit" or action.dest != "ckpt_path"):
                action.help = SUPPRESS
        add = parser.add_argument
        add("--runs_dir", type=str, default="runs", help="Folder of all runs.")
        add(
            "--trainer.compile",
            type=bool | str | None,
            default=None,
            help="Compile the networks of a training step by torch.compile: true, or the name of "
            "one of its backends."
            if subcommand == "fit"
            else SUPPRESS,
        )
        if subcommand == "test":
            add(
                "--results_dir",
                type=str,
                default=None,
                help="Folder of per_case.csv; unset: the run's.",
            )
            add(
                "--rule",
                type=Literal["brats", "nan", "monai", "nnunet"],
                default="brats",
                help="Rule that scores empty regions; one other than brats has its own folder.",
            )
        if subcommand in ("test", "predict"):
            add(
                "--postprocessing",
                type=Literal["as_trained", "on", "off"],
                default="as_trained",
                help="Post-processing: as in the experiment; on (the experiment's or the default "
                "rules); or off.",
            )
        if subcommand == "fit":
            add("--resume", action="store_true", help="Go on from the last finished epoch.")
            add(
                "--overwrite",
                action="store_true",
                help="Train again; the folder of an earlier run is moved aside.",
            )
        if subcommand == "predict":
            for name in MODALITIES:
                add(
                    f"--{name}",
                    type=str,
                    default=None,
                    help=f"NIfTI file of one patient's {name}; the four instead of --data.root.",
                )
            add("--output", type=str, default="predictions", help="Folder of the predictions.")
            add(
                "--overwrite",
                action="store_true",
                help="Move other predictions in that folder aside.",
            )
            add("--probabilities", action="store_true", help="Also write region probabilities.")
            add(
                "--maps",
                action="store_true",
                help="Also write the attention maps of a network that has them (Zhou 2022).",
            )
            add(
                "--all_grids",
                action="store_true",
                help="For a raw exam, also write the mask on the grid of every modality.",
            )
            add(
                "--tta",
                type=Literal["none", "flips"],
                default="none",
                help="Average over the flips of the three axes.",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; a wrong one is one sentence."""
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise explain(error, self.line, typed=True, command=str(args[0])) from error
        share_regions(self.config[str(args[0])])
        # `studies.runs.checkpoint_settings` reads a checkpoint's constructor arguments, never this

    def parse_fit(self, line: CommandLine) -> dict[str, Any]:
        """Return the checked configuration of ``fit`` for another command line."""
        config = self.resolve(line)
        check_trainer(config["trainer"])
        check_compiler(config["trainer"])
        check_loss(config["model"])
        return config

    def resolve(self, line: CommandLine, *, typed: bool = False) -> dict[str, Any]:
        """Return the resolved configuration of ``fit`` for another command line.

        Args:
            line: the command line.
            typed: whether its options were typed, not read from a file.
        """
        parser = self._subcommand_parsers["fit"]
        try:
            parsed = parser.parse_args(line.words())
        except ArgumentError as error:
            raise explain(error, line, typed=typed) from error
        share_regions(parsed)
        return self.plain(parser, parsed)

    @staticmethod
    def plain(parser: LightningArgumentParser, config: Namespace) -> dict[str, Any]:
        """Return a configuration in plain types, with what depends on the machine resolved."""
        resolved: dict[str, Any] = yaml.safe_load(
            parser.dump(config, skip_unset=False, skip_link_targets=False)
        )
        resolved.pop("config", None)
        if resolved["trainer"]["precision"] is None:
            resolved["trainer"]["precision"] = precision_of_machine(
                resolved["trainer"]["accelerator"]
            )
        resolved["trainer"] |= repeatability(resolved["trainer"])
        resolved["trainer"]["compile"] = compiler_of(resolved["trainer"]["compile"])
        return resolved

    @property
    def arguments(self) -> Namespace:
        """The parsed arguments of the subcommand."""
        found: Namespace = self.config[str(self.subcommand)]
        return found

    def before_instantiate_classes(self) -> None:
        """Create the session: resolve the run (fit), or check the data against the checkpoint."""
        arguments = self.arguments
        parts = (arguments.data, arguments.model)
        check_together(self.line, *(part.init_args.as_dict() for part in parts))
        if self.restored is None:
            config = self.plain(self._parser("fit"), arguments)
            check_trainer(config["trainer"])
            check_compiler(config["trainer"])
            check_loss(config["model"])
            plan = Planner(self.parse_fit, Path(arguments.runs_dir)).plan(self.line, config)
            self.session = Training(plan, arguments)
            self.planned_data = plan.data
        else:
            check_trainer(arguments.trainer.as_dict())
            self.session = Application(str(self.subcommand), self.restored, arguments)
        self.session.prepare()

    def _set_seed(self) -> None:
        seed = self.arguments.seed_everything
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seed_everything is {seed}: expected 0 to {LARGEST_SEED}.")
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Build model, trainer and data, unless planned with it; an InputError passes through."""
        planned = self.planned_data
        reused = [] if planned is None else [(lambda *_, **__: planned, type(planned), False)]
        with own_errors():
            self.config_init = self.parser.instantiate(self.config, instantiators=reused)
            self.datamodule = self._get(self.config_init, "data")
            self.model = self._get(self.config_init, "model")
            self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer with the callbacks and the logger of the session."""
        settings = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        settings |= repeatability(settings)
        settings.pop("compile", None)
        assert self.session is not None  # set by before_instantiate_classes
        self.session.equip(self.model, self.datamodule, settings)
        return build_trainer(settings)

    def _run_subcommand(self, subcommand: str) -> None:
        assert self.session is not None  # set by before_instantiate_classes
        self.session.execute(self.trainer, self.model, self.datamodule)


QUIET = {  # messages of Lightning, MONAI and W&B, and the reason to hide each
    "LeafSpec": "torch deprecates what Lightning calls",
    "module.s. in eval mode": "frozen backbones are meant to stay in eval mode",
    "num_workers": "patches come from a memory-mapped cache; on few cores workers only compete",
    "Checkpoint directory": "the folder of a run is meant to exist on resume",
    "The number of training batches": "losses are logged once an epoch",
    "ModelCheckpoint.*lower than": "there is one validation an epoch",
}


def quiet() -> None:
    """Hide the messages of libraries, except errors."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")
    for message in QUIET:
        warnings.filterwarnings("ignore", message=f".*{message}.*")


def read_words(subcommand: str, words: list[str]) -> CommandLine:
    """Prepare this process for a subcommand; return its command line, checked.

    Where the words ask for help, it is printed and the process ends.
    """
    quiet()
    if running_as_stage():
        stop_with_parent()
    line = CommandLine.parse(words)
    if _asks_for_help(line):
        ExperimentCLI(subcommand, line)  # prints and leaves
    check_typed(subcommand, line)
    line.expand_home("runs_dir", "output", "results_dir")
    return line


def _asks_for_help(line: CommandLine) -> bool:
    """Whether the parser will only print help or a configuration."""
    return any(name in ("h", "help") or name.endswith(".help") for name, _ in line.options)
