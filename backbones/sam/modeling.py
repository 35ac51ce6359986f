"""The one place that loads segment_anything's networks."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

NAME = "segment_anything.modeling"


@functools.cache
def sam_modeling() -> ModuleType:
    """Return the module `segment_anything.modeling`.

    Raises:
        ImportError: segment_anything is not installed.
    """
    if NAME in sys.modules:
        return sys.modules[NAME]
    # Not `import segment_anything.modeling`: that runs the package's __init__, which imports
    # torchvision for the automatic mask generator, and torchvision's wheels do not work with
    # CPU-only PyTorch. The subpackage itself needs PyTorch alone, so it is loaded from its file.
    package = importlib.util.find_spec("segment_anything")
    if package is None or not package.submodule_search_locations:
        raise ImportError("segment_anything is not installed: install gliofuse with pip.")
    folder = Path(package.submodule_search_locations[0]) / "modeling"
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"segment_anything has no networks at {folder}: install it again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module  # its files import each other by this name
    spec.loader.exec_module(module)
    return module
