"""How runs are filed with W&B, and what happens where it cannot be as asked."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import Namespace

from errors import InputError
from studies import artifacts, tracking
from studies.account import has_key, mode
from studies.artifacts import Source, artifact_name, use_sources
from studies.runs import Run
from studies.summary import training_summary


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


def a_plan(tmp_path, class_path="lightning_modules.FusionModule"):
    run = Run("mine", "abc", tmp_path / "runs" / "mine" / "abc")
    split = SimpleNamespace(train=["a", "b"], val=["c"], test=[])
    data = SimpleNamespace(fingerprint=lambda: "0123456789", split=split)
    model = {"class_path": class_path, "init_args": {}}
    config = {"model": model, "seed_everything": 3}
    return SimpleNamespace(
        run=run, data=data, config=config, stages={}, line=SimpleNamespace(overlays=["long"])
    )


def test_a_benchmark_is_one_group(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIOFUSE_GROUP", raising=False)
    assert tracking.describe(a_plan(tmp_path))["group"] == "3d-01234567"
    monkeypatch.setenv("GLIOFUSE_GROUP", "dual_fusion")
    filed = tracking.describe(a_plan(tmp_path))
    assert filed["group"] == "dual_fusion"
    assert filed["about"]["system"] == "mine + long"


@pytest.mark.parametrize(
    ("name", "job_type"),
    [
        ("BackboneModule", "backbone"),
        ("SliceBackboneModule", "backbone"),
        ("FusionModule", "fusion"),
        ("SamAdapterModule", "adapter"),
        ("SamPretrainModule", "pretrain"),
        ("FeatureTransitionModule", "pretrain"),
        ("SegmentationModule", "training"),  # of someone who says nothing
    ],
)
def test_job_type_is_what_the_module_says(name, job_type, tmp_path):
    assert tracking.describe(a_plan(tmp_path, f"lightning_modules.{name}"))["job_type"] == job_type


def trainer_with(class_path, **extra):
    logger = Namespace(class_path=class_path, init_args=Namespace(project="p"), **extra)
    return Namespace(logger=logger)


def test_disabled_means_no_logger(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trainer = trainer_with("lightning_modules.run_logger.RunLogger")
    tracking.configure(trainer, a_plan(tmp_path).run, a_plan(tmp_path))
    assert trainer.logger is False


def test_other_loggers_are_left_alone(tmp_path):
    trainer = trainer_with("lightning.pytorch.loggers.CSVLogger")
    tracking.configure(trainer, a_plan(tmp_path).run, a_plan(tmp_path))
    assert list(trainer.logger.init_args.keys()) == ["project"]


def test_own_words_for_wandb_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    plan = a_plan(tmp_path)
    trainer = trainer_with("lightning.pytorch.loggers.WandbLogger", dict_kwargs={"entity": "us"})
    tracking.configure(trainer, plan.run, plan)
    logger = trainer.logger
    assert (logger.init_args.offline, logger.init_args.id) == (True, "abc")
    assert logger.init_args.save_dir == str(plan.run.folder)
    assert logger.dict_kwargs["entity"] == "us"
    assert logger.dict_kwargs["config"]["gliofuse"]["patients"] == {"train": 2, "val": 1, "test": 0}


def test_the_test_of_a_moved_checkpoint_belongs_to_no_run(tmp_path):
    trainer = trainer_with("lightning_modules.run_logger.RunLogger")
    moved = SimpleNamespace(config={})
    tracking.configure_again(trainer, Run("mine", "abc", tmp_path / "away"), moved)
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
    run.update_manifest(stages={"experiments/net.yaml": str(stage.folder)})
    command = training_summary(run).partition("wandb sync")[2].split("\n\n")[0]
    assert [word for word in command.split() if word != "\\"][:3] == [
        "runs/net/s1/wandb/offline-run-1-s1",
        "runs/mine/abc/wandb/offline-run-2-abc",
        "runs/mine/abc/wandb/offline-run-3-abc",
    ]
    assert "run-4" not in command
