"""Files of public data sets: fetched once, checked, kept."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from gen3d.errors import Gen3dError
from gen3d.files import atomic_write


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        name: its name here.
        url: where it is.
        checksum: "md5:..." or "sha256:..." as published; None when none is known.
    """

    name: str
    url: str
    checksum: str | None = None


def fetch(file: RemoteFile, folder: Path, progress: bool = True) -> str:
    """Download `file` into `folder` unless it is there; check it; return its "sha256:...".

    Raises:
        Gen3dError: the download failed or was cut short, or the checksum differs.
    """
    path = folder / file.name
    if not path.is_file():
        with atomic_write(path) as temporary:
            _download(file, path, temporary, progress)
            _verify(file, temporary)
    else:
        _verify(file, path)
    return f"sha256:{_digest(path, 'sha256')}"


def cache_folder(name: str) -> Path:
    """Where downloads of the set `name` are kept: under $GEN3D_CACHE, or ~/.cache/gen3d."""
    return Path(os.environ.get("GEN3D_CACHE") or Path.home() / ".cache" / "gen3d") / name


def _download(file: RemoteFile, path: Path, temporary: Path, progress: bool) -> None:
    from gen3d.progress import tqdm

    try:
        with urllib.request.urlopen(file.url, timeout=60) as response, open(temporary, "wb") as out:
            total = int(response.headers.get("Content-Length") or 0) or None
            received = 0
            with tqdm(
                desc=file.name, total=total, unit="B", unit_scale=True, disable=not progress, leave=False
            ) as bar:
                while chunk := response.read(1 << 20):
                    out.write(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise Gen3dError(
            f"cannot download {file.url}: {reason}; or download it by hand and put it at {path}"
        ) from error
    if total is not None and received != total:
        raise Gen3dError(f"the download of {file.url} ended after {received:,} of {total:,} bytes; try again")


def _verify(file: RemoteFile, path: Path) -> None:
    if file.checksum is None:
        return
    algorithm, _, expected = file.checksum.partition(":")
    found = _digest(path, algorithm)
    if found != expected:
        raise Gen3dError(
            f"{file.name} is not the published file: {algorithm} {found}, expected {expected}; "
            f"delete it if it is at {path.parent / file.name}, and try again"
        )


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as data:
        return hashlib.file_digest(data, algorithm).hexdigest()
