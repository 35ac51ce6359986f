"""Fixtures that more than one folder of tests needs."""

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from files import cores

if TYPE_CHECKING:
    from tests.trainings import Trainings

ROOT = Path(__file__).resolve().parents[1]
SHRUNKEN = ROOT / "tests" / "conf" / "shrunken.yaml"
SHRUNKEN_SLICES = ROOT / "tests" / "conf" / "shrunken_slices.yaml"
MOST_PROCESSES = 4
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
KEPT = {"PYTEST_CURRENT_TEST", "WANDB_SERVICE"}  # the service is shared by tests
QUIETED = ("lightning.pytorch", "lightning.fabric")

os.environ["WANDB_MODE"] = "offline"  # tests use no server
os.environ.setdefault("WANDB_SILENT", "true")
# Tests run side by side instead, and networks of this size gain nothing from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run folders of tests in one process more than there are cores, at most four.

    Some tests wait for processes of their own, and leave a core to the others meanwhile.

    `-n` overrides it, `-n 0` for a debugger; files and single tests run in this process.
    """
    option = config.option
    if IS_WORKER or getattr(option, "numprocesses", 0) is not None:
        return  # this is one of them, or -n was given, or xdist is not there
    if option.usepdb or option.collectonly or not any(Path(word).is_dir() for word in config.args):
        return
    option.numprocesses = min(cores() + 1, MOST_PROCESSES)
    option.loadscopereorder = False
    if option.dist == "no":
        option.dist = "loadfile"  # the fixtures of a file are made in one process
    if option.maxworkerrestart is None:
        option.maxworkerrestart = "0"  # replacing the last process waits for ever with loadfile


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of trained experiments as slow, and let several processes begin with such files.

    What takes longest is begun first, so that all processes end at about the same time.
    """
    for item in items:
        if "trainings" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    if IS_WORKER:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def process_of_its_own() -> Iterator[None]:
    """Put back what a command changes for its whole process, which would end with it elsewhere."""
    environment, loggers = dict(os.environ), {name: logging.getLogger(name) for name in QUIETED}
    levels = {name: logger.level for name, logger in loggers.items()}
    torch = sys.modules.get("torch")
    if torch:
        deterministic = torch.are_deterministic_algorithms_enabled()
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        threads = torch.get_num_threads()
    yield
    for name in (set(os.environ) | set(environment)) - KEPT:
        if name not in environment:
            del os.environ[name]
        elif os.environ.get(name) != environment[name]:
            os.environ[name] = environment[name]
    for name, logger in loggers.items():
        logger.setLevel(levels[name])
    if torch:
        torch.use_deterministic_algorithms(deterministic, warn_only=warned)
        torch.set_num_threads(threads)


def pytest_collection_finish() -> None:
    """Leave what imports made out of every search for garbage, a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # and search less often


@pytest.fixture(autouse=True, scope="module")
def memory_given_back() -> Iterator[None]:
    """Give memory that a file's tests freed back to the system, which glibc would keep.

    Three processes kept 3 GB each after networks of full size; `mypy` takes another.
    """
    yield
    gc.collect()
    gc.freeze()  # what this file's tests imported
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real patients, or a skip: they are not part of the project."""
    folder = Path(os.environ.get("GLIOFUSE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "brats2021").is_dir():
        pytest.skip(f"no real patients at {folder}: set GLIOFUSE_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all processes of this session; no test uses the cache of the user."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if IS_WORKER else base
    os.environ["GLIOFUSE_CACHE"] = str(folder / "cache")
    return folder


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory of a researcher, shared by the tests of a process."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def trainings(session_folder: Path) -> "Trainings":
    """Runs of the project's experiments, made on demand and shared by all processes."""
    from tests.trainings import Trainings

    folder = session_folder / "trainings"
    (folder / "printed").mkdir(parents=True, exist_ok=True)
    return Trainings(folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, for copies of runs and for what a command writes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The researcher's folder as the working directory."""
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """Reset W&B, which reads the environment once a process."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def without_wandb():
    """Disable W&B, which takes seconds a run, in tests that train a lot and do not check it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "disabled")
        yield
