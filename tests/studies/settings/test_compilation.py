"""`trainer.compile` is tried before a training: an unknown backend, a missing compiler."""

import pytest
import torch

import cli
from datamodules import BraTSPatchDataModule
from errors import InputError
from studies.settings import compilation
from studies.settings.compilation import check_compiler, compiler_of


@pytest.fixture(autouse=True)
def forgotten():
    compilation._try.cache_clear()
    yield
    compilation._try.cache_clear()


def test_true_is_inductor_and_false_is_nothing():
    assert [compiler_of(one) for one in (True, "aot_eager")] == ["inductor", "aot_eager"]
    assert [compiler_of(one) for one in (False, None)] == [None, None]


def test_a_backend_that_works_passes():
    check_compiler({"compile": None})
    check_compiler({"compile": "eager", "accelerator": "cpu"})


@pytest.mark.parametrize("backend", ["nosuch", "g++"])
def test_an_unknown_backend_is_one_sentence_before_the_data_are_prepared(
    backend, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(BraTSPatchDataModule, "prepare_data", None)
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", "experiments/fusion.yaml", "--trainer.compile", backend]
    assert cli.main(words) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert sentence.startswith(f"lightning fit: trainer.compile is {backend}: expected true, false")
    assert "inductor" in sentence


def test_without_a_compiler_it_is_one_sentence_too(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler-1", "no-such-compiler-2"))
    monkeypatch.setattr(config, "force_disable_caches", True)
    with pytest.raises(InputError) as refused:
        check_compiler({"compile": "inductor", "accelerator": "cpu"})
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith("trainer.compile: inductor cannot compile on this machine (")
    assert "no-such-compiler-2" in text
    assert text.endswith("or leave trainer.compile out.")


def test_any_failure_of_a_backend_is_told_in_its_own_words(monkeypatch):
    def broken(*_):
        raise RuntimeError("backend='inductor' raised:\nNoTriton: no triton here.\n\nSet TORCH_X=1")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"\(NoTriton: no triton here\): install what it needs"):
        check_compiler({"compile": "inductor", "accelerator": "auto"})


def test_a_test_of_a_compiled_training_compiles_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", None)
    words = ["test", "--config", "experiments/fusion.yaml", "--trainer.compile", "true"]
    assert cli.main(words) == 2
    assert "no finished run of fusion with trainer.compile inductor" in capsys.readouterr().err
