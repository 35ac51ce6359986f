"""The Weights & Biases account of this machine: its key and ``WANDB_MODE``."""

import netrc
import os
from pathlib import Path

from errors import InputError

MODES = {"online": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


def has_key() -> bool:
    """Whether W&B could go online without a prompt: a key in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:  # with the file named: netrc refuses its default if others may read it, W&B does not
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def mode() -> str:
    """Return online, offline or disabled: ``WANDB_MODE`` if it is set, else online with a key.

    Raises:
        InputError: when it is something else, or online without a key, where W&B would prompt.
    """
    wanted = os.environ.get("WANDB_MODE")
    if not wanted:
        return "online" if has_key() else "offline"
    if wanted not in MODES:
        raise InputError(
            f"The environment variable WANDB_MODE is {wanted!r}: expected online, offline or "
            "disabled; without it a run is online where there is a key."
        )
    if wanted == "online" and not has_key():
        raise InputError(
            "The environment variable WANDB_MODE is 'online', but there is no key of W&B: run "
            "`wandb login` first, set WANDB_API_KEY, or leave WANDB_MODE out to log offline."
        )
    return MODES[wanted]
