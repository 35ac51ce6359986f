import fcntl
import json
import multiprocessing

import pytest

from errors import InputError
from studies.runs import run as run_module
from studies.runs.run import Run, identity_hash, newest_finished, same_cohort, write_atomically


def make_run(folder, run_id="abc", status="finished", when="2026-01-01T00:00:00", overlays=()):
    run = Run("fusion", run_id, folder / "fusion" / run_id)
    run.update_manifest(status=status, finished_at=when, overlays=list(overlays))
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.best_checkpoint.write_bytes(b"x")
    return run


def test_identity_depends_on_content_not_on_order():
    first = identity_hash({"model": {"a": 1, "b": 2}, "seed": 0})
    assert first == identity_hash({"seed": 0, "model": {"b": 2, "a": 1}})
    assert first != identity_hash({"model": {"a": 1, "b": 3}, "seed": 0})
    assert first != identity_hash({"model": {"a": 1, "b": 2}, "seed": 1})


def test_newest_finished_run_is_found_by_time_and_overlay(tmp_path):
    make_run(tmp_path, "old", when="2026-01-01T00:00:00")
    new = make_run(tmp_path, "new", when="2026-01-02T00:00:00")
    make_run(tmp_path, "unfinished", status="running", when="2026-01-03T00:00:00")
    scaled = make_run(tmp_path, "scaled", when="2025-01-01T00:00:00", overlays=["brats3d"])
    assert newest_finished(tmp_path, "fusion", []) == new
    assert newest_finished(tmp_path, "fusion", ["brats3d"]) == scaled
    assert newest_finished(tmp_path, "other", []) is None


def test_a_run_without_its_checkpoint_is_not_finished(tmp_path):
    run = make_run(tmp_path)
    assert run.finished
    run.best_checkpoint.unlink()
    assert not run.finished
    assert run.started


def test_manifest_entries_add_up(tmp_path):
    run = make_run(tmp_path)
    run.update_manifest(wall_seconds=3.0)
    assert run.manifest()["status"] == "finished"
    assert json.loads((run.folder / "manifest.json").read_text())["wall_seconds"] == 3.0


def test_damaged_manifest_is_told(tmp_path):
    run = make_run(tmp_path)
    (run.folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json is damaged"):
        run.manifest()


def test_discard_keeps_what_was_computed(tmp_path):
    run = make_run(tmp_path)
    run.discard()
    assert not run.folder.exists()
    kept = list(run.folder.parent.glob("abc.replaced-*/checkpoints/best.ckpt"))
    assert len(kept) == 1
    assert newest_finished(tmp_path, "fusion", []) is None


def test_folders_moved_aside_within_a_second_lie_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module.time, "strftime", lambda _: "20260101-000000")
    moved = []
    for number in range(3):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / f"{number}").touch()
        moved.append(run_module.set_aside(tmp_path / "out"))
    assert [path.name for path in moved] == [
        f"out.replaced-20260101-000000{suffix}" for suffix in ("", "-2", "-3")
    ]
    assert [path.name for aside in moved for path in aside.iterdir()] == ["0", "1", "2"]


def test_atomic_write_leaves_no_temporary_file(tmp_path):
    write_atomically(tmp_path / "deep" / "file.txt", "text")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.txt"]


def _hold(run, ready, release):
    with run.lock():
        ready.set()
        release.wait(20)


def test_second_process_is_kept_out_and_the_lock_goes_with_a_killed_one(tmp_path):
    run = make_run(tmp_path)
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(run, ready, release))
    process.start()
    assert ready.wait(20)
    assert run.is_locked()
    with pytest.raises(InputError, match="trained by another process"), run.lock():
        pass
    with pytest.raises(InputError, match="trained by another process, so it cannot be moved"):
        run.discard()
    assert run.finished
    process.kill()
    process.join()
    assert not run.is_locked()
    with run.lock():
        pass


def test_asking_for_the_lock_keeps_nobody_out(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    assert not run.is_locked()
    assert not (run.folder / ".lock").exists()
    with run.lock():
        pass
    asked = (run.folder / ".lock").open()
    fcntl.flock(asked, fcntl.LOCK_SH)
    assert not run.is_locked()  # two processes may check at once
    monkeypatch.setattr(run_module.time, "sleep", lambda _: asked.close())
    with run.lock():  # begun while another process checks
        assert asked.closed


def test_an_older_run_is_compared_by_what_it_recorded():
    new, old = {"cohort": "with sizes", "voxels": "v"}, {"cohort": "v"}
    assert same_cohort(new, old)
    assert same_cohort(old, dict(old))
    assert not same_cohort(new, {**new, "cohort": "other sizes"})
    assert not same_cohort(new, {"cohort": "w"})


def test_a_run_of_another_user_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    wrong = pytest.raises(InputError, match=r"\.lock cannot be written \(Permission denied\): give")
    with wrong, Run("fusion", "f0", tmp_path).lock():
        pass
