"""Logging of runs to W&B: groups, ids, modes, and failures that stop no training."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import Namespace

from errors import InputError
from evaluation.tables.per_case import write_csv
from studies.jobs.placement import make_workers
from studies.runs.planning import Plan
from studies.runs.run import Run
from studies.settings.command_line import CommandLine
from studies.tracking import artifacts, weights_and_biases
from studies.tracking.account import has_key, mode
from studies.tracking.artifacts import Source, artifact_name, use_sources
from studies.training.summary import training_summary
from tests.wandb_decoder import stored


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC")
    for name in (*keys, "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "key", "expected"),
    [
        (None, False, "offline"),
        (None, True, "online"),
        ("offline", True, "offline"),
        ("dryrun", True, "offline"),
        ("disabled", False, "disabled"),
        ("online", True, "online"),
    ],
)
def test_mode_is_what_was_asked_else_what_a_key_allows(asked, key, expected, stranger, monkeypatch):
    if asked:
        monkeypatch.setenv("WANDB_MODE", asked)
    if key:
        (stranger / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert has_key() is key
    assert mode() == expected


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [("online", "no key of W&B: run `wandb login`"), ("on", "expected online, offline or")],
)
def test_what_would_end_in_a_prompt_is_refused(asked, sentence, stranger, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", asked)
    with pytest.raises(InputError, match=sentence):
        mode()


def a_plan(tmp_path, class_path="lightning_modules.FusionModule", words=()):
    run = Run("mine", "abc", tmp_path / "runs" / "mine" / "abc")
    split = SimpleNamespace(train=["a", "b"], val=["c"], test=[])
    data = SimpleNamespace(fingerprint=lambda: "0123456789", split=split)
    model = {"class_path": class_path, "init_args": {}}
    config = {"model": model, "seed_everything": 3}
    for stem in ("mine", "long"):
        (tmp_path / f"{stem}.yaml").touch()
    line = CommandLine.parse(list(words))
    line.configs = [str(tmp_path / "mine.yaml"), "long.yaml"]
    return Plan(line, config, data, run)


@pytest.fixture(autouse=True)
def no_benchmark(monkeypatch):
    """Remove the environment of benchmarks and agents; accept the files of `a_plan`."""
    for name in ("GLIOFUSE_GROUP", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(CommandLine, "check", lambda self: None)


def test_a_benchmark_is_one_group_on_one_cohort(tmp_path, monkeypatch):
    assert weights_and_biases.describe(a_plan(tmp_path))["group"] == "3d-01234567"
    monkeypatch.setenv("GLIOFUSE_GROUP", "dual_fusion")
    filed = weights_and_biases.describe(a_plan(tmp_path))
    assert filed["group"] == "dual_fusion 3d-01234567"
    assert filed["tags"] == ["3d", "mine", "long", "dual_fusion"]
    other = a_plan(tmp_path)
    other.data.fingerprint = lambda: "abcdef0123"
    assert weights_and_biases.describe(other)["group"] == "dual_fusion 3d-abcdef01"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "mine + long"),
        (["--data.split_by=slice"], "mine + long + split_by=slice"),
        (
            ["--model.network.init_args.first_blocks", "6", "--trainer.max_epochs=2"],
            "mine + long + max_epochs=2 + network.first_blocks=6",
        ),
        # the same system: another seed, fold, place or device
        (["--seed_everything=3", "--data.seed=3", "--data.fold=1", "--data.n_folds=5"], ""),
        (["--data.init_args.root", "there", "--trainer.devices=1", "--resume"], ""),
        (["--trainer.precision=32-true", "--runs_dir", "there"], ""),
    ],
)
def test_a_system_is_what_its_options_make_of_it(words, expected, tmp_path):
    system = weights_and_biases.describe(a_plan(tmp_path, words=words))["about"]["system"]
    assert system == (expected or "mine + long")


def test_every_folder_of_a_run_has_an_id_of_its_own(tmp_path, monkeypatch):
    plan = a_plan(tmp_path)
    first, elsewhere = (weights_and_biases.describe(plan)["id"] for _ in range(2))
    assert first != elsewhere
    assert first.startswith("abc-")
    plan.run.update_manifest(tracking={"id": first, "tags": ["mine"]})
    assert weights_and_biases.describe(plan)["id"] == first  # --resume
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert weights_and_biases.describe(plan)["id"] == "given"


@pytest.mark.parametrize(("filed", "expected"), [({"id": "given"}, "given"), ({}, "abc")])
def test_a_test_joins_the_run_that_an_agent_gave(filed, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("GLIOFUSE_GROUP", "again")
    run = a_plan(tmp_path).run
    run.update_manifest(tracking={"group": "g", "job_type": "j", "tags": [], "about": {}, **filed})
    trainer = trainer_with("lightning_modules.run_logger.RunLogger")
    weights_and_biases.configure_again(trainer, run, SimpleNamespace(config={}))
    assert trainer.logger.init_args.id == expected
    assert trainer.logger.dict_kwargs["group"] == "g"
    assert trainer.logger.dict_kwargs["tags"] == ["tested", "again"]


@pytest.mark.parametrize(
    ("logger", "refused"),
    [({"class_path": "lightning_modules.run_logger.RunLogger"}, True), (False, False)],
)
def test_a_study_refuses_before_its_first_job(logger, refused, stranger, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    config = {"trainer": {"logger": logger, "devices": "auto", "accelerator": "cpu"}}
    jobs = [SimpleNamespace(plan=SimpleNamespace(config=config))]
    options = SimpleNamespace(ray=None, jobs=1)
    refusal = pytest.raises(InputError, match="no key of W&B") if refused else nullcontext()
    with refusal, make_workers(options, jobs):
        pass


def test_wandb_fails_no_finished_training(tmp_path, capsys):
    class Refusing:
        @property
        def summary(self):
            raise ConnectionError("gone\ntrace")

    run = a_plan(tmp_path).run
    run.update_manifest(test_scores={"dice/WT": 0.5})
    assert weights_and_biases.conclude(Refusing(), run, []) == []
    gallery = SimpleNamespace(pictures={})
    weights_and_biases.conclude_test(SimpleNamespace(experiment=Refusing()), run, [], gallery)
    weights_and_biases.conclude_manifest(Refusing(), run)
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith("Note: W&B did not take the") for line in printed] == [True] * 3
    assert "(gone)" in printed[0]


def test_an_agent_gets_the_scores_of_a_trial_trained_before(tmp_path, monkeypatch, fresh_wandb):
    plan = a_plan(tmp_path)
    filed = {"id": "first", "group": "g", "job_type": "j", "tags": [], "about": {}}
    plan.run.update_manifest(tracking=filed, scores={"val/dice/WT": 0.6}, wall_seconds=3.0)
    rows = [{"epoch": n, "step": 4 * n + 4, "val/dice/mean": 0.1 * n} for n in range(3)]
    write_csv(rows, plan.run.metrics_file)
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = trainer_with("lightning_modules.run_logger.RunLogger")
    trainer.logger.init_args.group = None  # the parser names every setting of wandb.init
    weights_and_biases.answer_agent(trainer, plan)
    assert not (plan.run.folder / "wandb").exists()  # no agent
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    weights_and_biases.answer_agent(trainer, plan)
    (found,) = stored(plan.run.folder)
    assert found.id == "agents"
    assert [row["val/dice/mean"] for row in found.history] == [0.0, 0.1, 0.2]
    assert found.summary["best/val/dice/WT"] == 0.6
    assert plan.run.manifest()["tracking"] == filed  # its test goes on joining its training


@pytest.mark.parametrize(
    ("name", "job_type"),
    [
        ("BackboneModule", "backbone"),
        ("SliceBackboneModule", "backbone"),
        ("FusionModule", "fusion"),
        ("SamAdapterModule", "adapter"),
        ("FeatureTransitionModule", "pretrain"),
        ("SegmentationModule", "training"),  # a class without a job type
    ],
)
def test_job_type_is_what_the_module_says(name, job_type, tmp_path):
    assert (
        weights_and_biases.describe(a_plan(tmp_path, f"lightning_modules.{name}"))["job_type"]
        == job_type
    )


def trainer_with(class_path, **extra):
    logger = Namespace(class_path=class_path, init_args=Namespace(project="p"), **extra)
    return Namespace(logger=logger)


def test_disabled_means_no_logger(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trainer = trainer_with("lightning_modules.run_logger.RunLogger")
    weights_and_biases.configure(trainer, a_plan(tmp_path).run, a_plan(tmp_path))
    assert trainer.logger is False


def test_other_loggers_are_left_alone(tmp_path):
    trainer = trainer_with("lightning.pytorch.loggers.CSVLogger")
    weights_and_biases.configure(trainer, a_plan(tmp_path).run, a_plan(tmp_path))
    assert list(trainer.logger.init_args.keys()) == ["project"]


def test_own_words_for_wandb_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    plan = a_plan(tmp_path)
    trainer = trainer_with("lightning.pytorch.loggers.WandbLogger", dict_kwargs={"entity": "us"})
    weights_and_biases.configure(trainer, plan.run, plan)
    logger = trainer.logger
    assert logger.init_args.offline is True
    assert logger.init_args.id.startswith("abc-")
    assert logger.init_args.save_dir == str(plan.run.folder)
    assert logger.dict_kwargs["entity"] == "us"
    assert logger.dict_kwargs["config"]["gliofuse"]["patients"] == {"train": 2, "val": 1, "test": 0}


def test_the_test_of_a_moved_checkpoint_belongs_to_no_run(tmp_path):
    trainer = trainer_with("lightning_modules.run_logger.RunLogger")
    moved = SimpleNamespace(config={})
    weights_and_biases.configure_again(trainer, Run("mine", "abc", tmp_path / "away"), moved)
    assert trainer.logger is False


def test_a_source_that_wandb_does_not_know_costs_no_training():
    def refuse(name, type):
        raise ValueError(f"artifact {name} not found\ntrace")

    online = SimpleNamespace(offline=False, use_artifact=refuse)
    (notice,) = use_sources(online, [Source("dynunet", "abc", Path("best.ckpt"))])
    assert "dynunet-abc (artifact dynunet-abc:latest not found): sync that run first" in notice


def test_sources_are_stages_and_checkpoints_of_other_runs(tmp_path, monkeypatch):
    plan = a_plan(tmp_path)
    stage = Run("dynunet", "abc", tmp_path / "runs" / "dynunet" / "abc")
    plan.stages = {"experiments/dynunet.yaml": SimpleNamespace(run=stage)}
    named = ["experiments/dynunet.yaml", "there/best.ckpt", "official.pth"]
    plan.config["model"]["init_args"]["backbones"] = named
    cards = {"there/best.ckpt": {"run": {"experiment": "segresnet", "id": "def"}}}
    monkeypatch.setattr(artifacts, "read_card", lambda path: cards[str(path)])
    found = artifacts.sources(plan)
    assert [source.artifact for source in found] == ["dynunet-abc", "segresnet-def"]
    assert found[0].checkpoint == stage.best_checkpoint


def test_names_are_such_that_wandb_takes_them():
    assert artifact_name("my net (2)", "abc") == "my_net_2_-abc"
    assert len(artifact_name("x" * 200, "abc")) == 128


def test_the_hint_names_every_folder_of_the_run_and_of_its_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = Run("net", "s1", tmp_path / "runs" / "net" / "s1")
    run = Run("mine", "abc", tmp_path / "runs" / "mine" / "abc")
    for folder in (
        stage.folder / "wandb" / "offline-run-1-s1",
        run.folder / "wandb" / "offline-run-2-abc",
        run.folder / "wandb" / "offline-run-3-abc",
        run.folder / "wandb" / "run-4-abc",  # was online
    ):
        folder.mkdir(parents=True)
        (folder / "run-abc.wandb").touch()
    (run.folder / "wandb" / "offline-run-5-abc").mkdir()  # was killed before it wrote anything
    run.update_manifest(stages={"experiments/net.yaml": str(stage.folder)})
    command = training_summary(run).partition("wandb sync")[2].split("\n\n")[0]
    assert [word for word in command.split() if word != "\\"][:3] == [
        "runs/net/s1/wandb/offline-run-1-s1",
        "runs/mine/abc/wandb/offline-run-2-abc",
        "runs/mine/abc/wandb/offline-run-3-abc",
    ]
    assert "run-4" not in command
    assert "run-5" not in command
