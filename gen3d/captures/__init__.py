"""Captures: posed images, read, written, made from moving meshes, and checked."""

from pathlib import Path

from gen3d.captures.arrays import read_arrays
from gen3d.captures.llff import FILE, read_llff
from gen3d.captures.transforms import read_transforms, transforms_files
from gen3d.captures.views import Views
from gen3d.captures.write import Split
from gen3d.errors import Gen3dError

__all__ = ["Views", "read_views"]


def read_views(path: str | Path, split: Split = "train") -> Views:
    """The views of a split of a capture, whichever of these it is:

    - a folder with `transforms_train.json` and the like (Blender, NeRF-synthetic, D-NeRF) or with one
      `transforms.json` (nerfstudio), or such a file;
    - a folder with `poses_bounds.npy` and `images` (LLFF);
    - a .npz file of images and poses, see `gen3d.captures.arrays`.

    Args:
        path: the folder or file.
        split: "train", "valid" or "test"; what others call val is valid here.

    Raises:
        Gen3dError: it is none of these, or there is something wrong with it: file and value are named.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return read_arrays(path, split)
    if (path.is_file() and path.suffix.lower() == ".json") or transforms_files(path):
        return read_transforms(path, split)
    if (path / FILE).is_file():
        return read_llff(path, split)
    if not path.exists():
        raise Gen3dError(f"{path} is missing")
    raise Gen3dError(
        f"{path} is no capture; allowed: a folder with transforms_train.json, transforms.json or "
        "poses_bounds.npy, or an .npz file of images and poses"
    )
