"""The measurement on a GPU runs on a processor too, at the scale of the tests."""

import sys

import pytest

from speed.networks import training_gpu
from tests.conftest import SHRUNKEN

TINY = ["--config", str(SHRUNKEN), "--trainer.accelerator", "cpu"]


@pytest.mark.slow
def test_steps_are_timed_through_the_trainer_of_fit():
    found = training_gpu.measure("dynunet", TINY, warm_up=1, steps=1, seconds=300)
    assert found["volumes_per_second"] > 0
    assert 0 <= found["waiting"] < 1
    assert "fault" not in found


def test_a_row_that_takes_too_long_is_named_and_ends():
    assert training_gpu.measure("dynunet", TINY, 1, 1, seconds=0.01) == {"fault": "not done in 0 s"}


def test_waits_count_and_the_first_steps_do_not():
    found = {"steps": [9.0, 1.0, 2.0], "waits": [9.0, 0.5, 0.5], "peak_gb": 3.0, "loaders": 7}
    row = training_gpu.summarise(found, warm_up=1)
    assert row["volumes_per_second"] == pytest.approx(training_gpu.BATCH * 2 / 4)
    assert row["waiting"] == pytest.approx(0.25)
    assert (row["peak_gb"], row["loader_processes"]) == (3.0, 7)


def test_without_a_gpu_it_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(training_gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["training_gpu"])
    assert training_gpu.main() == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.endswith("run it on a machine with CUDA.")


def test_rows_share_the_time_and_the_peer_is_compared(monkeypatch, tmp_path, capsys):
    asked = []

    def measure(name, words, warm_up, steps, seconds):
        asked.append((name, words, seconds))
        return {"volumes_per_second": 55.0}

    monkeypatch.setattr(training_gpu, "measure", measure)
    monkeypatch.setattr(training_gpu.torch.cuda, "is_available", lambda: True)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(training_gpu, "write_record", lambda path, content: asked.append(content))
    monkeypatch.setattr(sys, "argv", ["training_gpu", "--minutes", "5", "--out", str(out)])
    assert training_gpu.main() == 0
    *rows, content = asked
    assert len(rows) == len(training_gpu.ROWS)
    assert all(0 < seconds <= 300 for _, _, seconds in rows)
    assert content["dynunet_over_peer"] == 2.0
    assert "2.00 x" in capsys.readouterr().out
