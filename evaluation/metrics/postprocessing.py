"""Rules on a finished label map: small components, tiny cores, tiny enhancing tumour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from errors import InputError


@dataclass(frozen=True)
class Postprocessing:
    """Rules of Zhang et al. 2021, read in the authors' code; any network may use them.

    They state sizes in voxels of 1 mm; here they are volumes, so that they mean the same on every
    grid. Voxels that touch by a corner belong to one component (decided here).

    Args:
        component_share: a component of the whole tumour smaller than this share of the largest is
            dropped; 0 keeps all.
        least_core: where the core is below this many mm3, oedema becomes necrosis; 0 never.
        least_enhancing: enhancing tumour below this many mm3 becomes oedema (the authors: 200 to
            500); 0 never.
    """

    component_share: float = 1 / 3
    least_core: float = 10.0
    least_enhancing: float = 200.0

    def __post_init__(self) -> None:
        """Refuse rules out of range."""
        if not 0 <= self.component_share <= 1:
            raise InputError(
                f"postprocessing.component_share is {self.component_share}: expected a share of "
                "the largest component, from 0 to 1."
            )
        for name in ("least_core", "least_enhancing"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"postprocessing.{name} is {getattr(self, name)}: expected 0 or more mm3."
                )

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> "Postprocessing | None":
        """Return the rules that a network's configuration holds, None where there are none."""
        return None if stored is None else cls(**stored.get("init_args", stored))

    def __call__(self, regions: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Return the regions after the rules, a new array.

        Args:
            regions: nested WT, TC, ET, or WT alone: bool (R, *S); for R = 1 only the first rule
                applies.
            spacing: voxel size in mm along every axis of S.
        """
        whole = self._large_components(regions[0])
        if len(regions) == 1:
            return whole[None]
        voxel = float(np.prod(spacing))
        core, enhancing = regions[1] & whole, regions[2] & whole
        if whole.any() and core.sum() * voxel < self.least_core:
            core = whole.copy()
        if enhancing.sum() * voxel < self.least_enhancing:
            core = core & ~enhancing
            enhancing = np.zeros_like(enhancing)
        return np.stack([whole, core, enhancing])

    def _large_components(self, whole: np.ndarray) -> np.ndarray:
        components, found = ndimage.label(whole, structure=np.ones((3,) * whole.ndim))
        if found < 2:
            return whole.copy()
        sizes = np.bincount(components.ravel())[1:]
        kept = np.flatnonzero(sizes >= self.component_share * sizes.max()) + 1
        return np.isin(components, kept)

    def __str__(self) -> str:
        """Return the rules as a sentence for tables."""
        return (
            f"components below {self.component_share:.0%} of the largest dropped; core below "
            f"{self.least_core:g} mm3: oedema becomes necrosis; enhancing tumour below "
            f"{self.least_enhancing:g} mm3 becomes oedema"
        )


def effect_lines(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """Return the change of every mean score by post-processing, a line a score.

    Args:
        rows: one a patient, with every score twice: as it is, and under ``prefix`` before it.
        prefix: prefix of the columns before post-processing.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    lines = []
    for name in names:
        if prefix + name not in names:
            continue
        pairs = [(float(row[prefix + name]), float(row[name])) for row in rows if name in row]
        both = np.array([pair for pair in pairs if not np.isnan(pair).any()])  # same patients
        if not len(both):
            continue
        before, after = both.mean(axis=0)
        lines.append(f"{name:<18} {before:9.4f} -> {after:9.4f}  ({after - before:+.4f})")
    return lines
