"""Writing files so that a crash, a full disk or a kill never leaves half of one; reading arrays of prepared
data."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gen3d.errors import Gen3dError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; what is written there becomes `path` when the block ends well.

    The temporary file lies in the folder of `path` (created when absent) and keeps its extension, so that
    writers which choose a format by extension work. When the block raises, it is removed and `path` stays
    what it was.

    Raises:
        Gen3dError: the file cannot be written: disk full, no permission, a folder in its place.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make files that only their owner may read
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        # An error about some other file, read inside the block, is not about writing this one.
        if error.filename and Path(error.filename) not in (temporary, path, *path.parents):
            raise
        raise Gen3dError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def read_arrays(
    source: str | Path, split: str, names: Sequence[str], domain: str
) -> tuple[Path, dict[str, Any]]:
    """Named arrays of prepared data, from `SPLIT.npz` of a folder or from one file, and where they were.

    Raises:
        Gen3dError: nothing is there, or something else than `gen3d prepare` makes for the domain.
    """
    import numpy as np  # not above: `--help` imports this module

    path = Path(source)
    path = path / f"{split}.npz" if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as found:
            return path, {name: found[name] for name in names}
    except FileNotFoundError as error:
        raise Gen3dError(f"no file {path}; gen3d prepare --domain {domain} makes it") from error
    except Exception as error:
        # numpy and zipfile raise about anything for a damaged file.
        raise Gen3dError(f"{path} holds no prepared data of domain {domain}: {str(error)[:200]}") from error


def remove_stale(folder: str | Path) -> None:
    """Delete what `atomic_write` left in `folder` when a process was killed inside the block."""
    for path in Path(folder).glob(".????????.tmp.*"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk before what follows."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
