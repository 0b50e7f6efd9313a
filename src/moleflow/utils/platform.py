"""Operating systems on which moleflow runs."""

import sys

from moleflow.utils.errors import UserError


def check_platform(platform: str = sys.platform) -> None:
    """Check that this system has the POSIX file locks and signals that runs depend on.

    Args:
        platform: Name of the system, as in :data:`sys.platform`.

    Raises:
        UserError: On Windows.
    """
    if platform in ("win32", "cygwin"):
        raise UserError(
            "moleflow runs on Linux, macOS and WSL, not on Windows itself. Install WSL with `wsl --install`, and "
            "moleflow in it."
        )
