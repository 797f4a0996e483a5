"""What every verb asks of the terminal and the disk."""

import sys
import tempfile
from pathlib import Path

from gen3d.errors import Gen3dError


def show_progress(quiet: bool) -> bool:
    """Whether to show bars: they are for people at a terminal, not for log files."""
    return not quiet and sys.stderr.isatty()


def check_writable(out: Path) -> None:
    """Refuse, before any work, a file that cannot be written."""
    if out.is_dir():
        raise Gen3dError(f"{out} is a folder; name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise Gen3dError(f"cannot write to folder {out.parent}: {error.strerror}") from error
