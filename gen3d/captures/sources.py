"""Public captures: D-NeRF's eight scenes.

D-NeRF (Pumarola et al., CVPR 2021; https://github.com/albertpumarola/D-NeRF) publishes its scenes as one
archive without a checksum. What was downloaded once is therefore remembered by its own: the same file is
expected ever after. The archive can also be fetched by hand, and its path given.
"""

import shutil
import stat
import uuid
import zipfile
from pathlib import Path, PurePosixPath

from gen3d.errors import Gen3dError
from gen3d.fetch import RemoteFile, cache_folder, fetch
from gen3d.files import atomic_write

DNERF = RemoteFile("dnerf_data.zip", "https://www.dropbox.com/s/0bf6fl0ye2vz3vr/data.zip?dl=1")
DNERF_SCENES = (
    "bouncingballs",
    "hellwarrior",
    "hook",
    "jumpingjacks",
    "lego",
    "mutant",
    "standup",
    "trex",
)
LARGEST = 4 << 30
"""Bytes that a scene may have: a damaged archive must not fill the disk."""


def dnerf_scene(name: str, *, archive: str | Path | None = None, progress: bool = True) -> Path:
    """The folder of one of D-NeRF's scenes, which `read_views` reads: downloaded and unpacked if need be.

    Args:
        name: one of DNERF_SCENES.
        archive: the archive, where it was fetched by hand; else it is downloaded to the cache.
        progress: show a progress bar.

    Raises:
        Gen3dError: another name, the download failed or is not the file it was, or the archive is damaged.
    """
    if name not in DNERF_SCENES:
        raise Gen3dError(f"no scene {name!r} of D-NeRF; allowed: {', '.join(DNERF_SCENES)}")
    folder = cache_folder("dnerf")
    if (folder / name / "transforms_train.json").is_file():
        return folder / name
    return unpack(Path(archive) if archive else _download(folder, progress), name, folder / name)


def unpack(archive: Path, scene: str, out: Path) -> Path:
    """Unpack the folder `scene` of a zip archive, wherever it lies inside, to `out`, all of it or nothing.

    Raises:
        Gen3dError: the archive is damaged, has no such scene, or has names that lead out of the folder.
    """
    temporary = out.with_name(f".{uuid.uuid4().hex[:8]}.tmp.{out.name}")
    try:
        with zipfile.ZipFile(archive) as content:
            _unpack(content, archive, scene, temporary)
        if out.exists():
            raise Gen3dError(f"{out} is there already, and is no whole scene; delete it and try again")
        temporary.rename(out)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, NotImplementedError) as error:
        # A damaged archive makes zipfile raise any of these.
        raise Gen3dError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _download(folder: Path, progress: bool) -> Path:
    remembered = folder / f"{DNERF.name}.sha256"
    known = remembered.read_text(encoding="utf-8").strip() if remembered.is_file() else None
    checksum = fetch(RemoteFile(DNERF.name, DNERF.url, known), folder, progress)
    if known is None:
        with atomic_write(remembered) as temporary:
            temporary.write_text(checksum + "\n", encoding="utf-8")
    return folder / DNERF.name


def _unpack(content: zipfile.ZipFile, archive: Path, scene: str, out: Path) -> None:
    marker = "transforms_train.json"
    tops = {
        path.parent
        for path in map(PurePosixPath, content.namelist())
        if path.name == marker and path.parent.name == scene and "__MACOSX" not in path.parts
    }
    if len(tops) != 1:
        raise Gen3dError(f"{archive} has {len(tops)} folders {scene} with {marker}; one is needed")
    top = tops.pop()
    members = [
        member
        for member in content.infolist()
        if not member.is_dir() and PurePosixPath(member.filename).is_relative_to(top)
    ]
    if sum(member.file_size for member in members) > LARGEST:
        raise Gen3dError(f"{archive}: the scene {scene} would take more than {LARGEST >> 30} GB")
    for member in members:
        inside = PurePosixPath(member.filename).relative_to(top)
        if ".." in inside.parts or "\\" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
            raise Gen3dError(f"{archive} has a member {member.filename!r}, which leads out of its folder")
        target = out.joinpath(*inside.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with content.open(member) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink)
