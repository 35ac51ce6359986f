"""The scores that papers published for these systems, on other data and so not comparable."""

from collections.abc import Iterable
from dataclasses import dataclass

DUAL_FUSION = "Vo-Thanh et al., 3D Dual-Fusion Attention Network for Brain Tumor Segmentation"
SAM_ADAPTER = "Shi et al., Cross-modality Attention Adapter: glioma segmentation fine-tuning of SAM"

BRATS_2018 = "BraTS 2018, split 8:2, scored on the patients that selected"
TAKEN_OVER = "taken over from the literature and the challenge server, not the paper's own split"
PRIVATE = "245 slices of 489 private patients, drawn by slice; unit of HD95 not stated"


@dataclass(frozen=True)
class Published:
    """The published scores of one system.

    Args:
        experiment: the experiment that trains this system here.
        system: the paper's name for it.
        scores: column of ``per_case.csv`` to the mean, Dice between 0 and 1.
        paper: authors and title.
        data: the data it was scored on.
        table: number of the table in the paper, None where it is not known here.
        parameters: (all, trained); None where the paper gives none.
    """

    experiment: str
    system: str
    scores: dict[str, float]
    paper: str
    data: str
    table: int | None = None
    parameters: tuple[int, int | None] | None = None

    @property
    def citation(self) -> str:
        """Paper, table and data."""
        table = f", table {self.table}" if self.table else ""
        return f"{self.paper}{table} ({self.data})"


def _volumes(
    experiment: str,
    system: str,
    dices: tuple[float, float, float],
    table: int | None = None,
    data: str = BRATS_2018,
) -> Published:
    """Dice of WT, TC, ET on whole volumes, from the dual-fusion paper."""
    scores = {
        f"dice/{region}": dice for region, dice in zip(("WT", "TC", "ET"), dices, strict=True)
    }
    return Published(experiment, system, scores, DUAL_FUSION, data, table)


def _slices(
    experiment: str,
    system: str,
    percent: float,
    distance: float,
    parameters: tuple[int, int | None] | None = None,
) -> Published:
    """Dice in per cent and HD95 of the abnormal area on slices, from the adapter paper."""
    scores = {"slices/dice/WT": round(percent / 100, 4), "slices/hd95/WT": distance}
    return Published(experiment, system, scores, SAM_ADAPTER, PRIVATE, None, parameters)


PUBLISHED = {
    entry.experiment: entry
    for entry in (
        _volumes("dynunet", "DynUNet", (0.8623, 0.7857, 0.7749), table=1),
        _volumes("segresnet", "SegResNet", (0.81753, 0.74489, 0.6681), table=1),
        _volumes("late_fusion", "late fusion", (0.88829, 0.81713, 0.73897)),
        _volumes("early_fusion", "early fusion", (0.89303, 0.79925, 0.76008)),
        # Its table 3 repeats these, rounded to .9027 and .8411.
        _volumes("fusion", "dual-fusion attention", (0.90267, 0.84107, 0.77842)),
        _volumes("zhang2021", "Zhang 2021", (0.9, 0.836, 0.791), 3, TAKEN_OVER),
        _volumes("zhou2022", "Zhou 2022", (0.876, 0.784, 0.688), 3, TAKEN_OVER),
        _volumes("akbar2022", "Akbar 2022", (0.896, 0.798, 0.777), 3, TAKEN_OVER),
        _slices("sam_t1", "SAM, T1", 68.96, 24.13),
        _slices("sam_t1ce", "SAM, T1ce", 65.21, 24.16),
        _slices("sam_t2", "SAM, T2", 81.05, 16.28),
        _slices("sam_flair", "SAM, FLAIR", 78.40, 17.11),
        _slices("sam_early_fusion", "SAM, early fusion", 83.86, 16.14, (91_000_000, 3_640_000)),
        _slices("transunet", "TransUNet", 84.43, 16.02, (93_000_000, None)),
        _slices("swin_unet", "Swin-Unet", 84.05, 16.25, (43_000_000, None)),
        _slices("sam_adapter", "cross-modality adapter", 88.38, 10.64, (98_000_000, 10_800_000)),
    )
}


def citations(experiments: Iterable[str]) -> list[str]:
    """Return where the numbers of these experiments come from, each source once."""
    found: dict[str, list[str]] = {}
    for experiment in experiments:
        if experiment in PUBLISHED:
            found.setdefault(PUBLISHED[experiment].citation, []).append(experiment)
    return [f"{citation}: {', '.join(names)}" for citation, names in found.items()]
