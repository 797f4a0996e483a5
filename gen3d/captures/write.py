"""Writing captures as folders that D-NeRF's code and nerfstudio read unchanged.

`transforms_train.json`, `transforms_val.json` and `transforms_test.json`, each with `camera_angle_x` and for
every frame `file_path` (without ".png"), `time` where the scene moves, and the 4 x 4 `transform_matrix`; the
pictures lie in `train`, `val` and `test`. nerfstudio's `dnerf-data` and `blender-data` parsers know no more
than this: one focal length, and an optical axis through the middle of the picture.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gen3d.captures.images import write_png
from gen3d.captures.views import Views
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
ON_DISK: dict[str, str] = {"train": "train", "valid": "val", "test": "test"}
"""Our names of the splits, and those in files."""


def write_views(folder: str | Path, splits: Mapping[Split, Views]) -> None:
    """Write a capture; each file appears whole, and a split's list of frames after its pictures.

    Args:
        folder: made when absent; files of the same names are replaced.
        splits: any of "train", "valid" and "test".

    Raises:
        Gen3dError: another split, cameras that the format cannot tell, or a file that cannot be written.
        MissingExtra: pillow is not installed.
    """
    folder = Path(folder)
    for split, views in splits.items():
        if split not in ON_DISK:
            raise Gen3dError(f"split is {split!r}; allowed: {', '.join(ON_DISK)}")
        _check(split, views)
    for split, views in splits.items():
        name = ON_DISK[split]
        for i, image in enumerate(views.images):
            write_png(folder / name / f"r_{i:03d}.png", image if views.has_alpha else image[..., :3])
        write_json(folder / f"transforms_{name}.json", _transforms(name, views))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON.

    Raises:
        Gen3dError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _check(split: str, views: Views) -> None:
    cameras = views.cameras
    focal, centre = cameras.focal.double().cpu(), cameras.centre.double().cpu()
    same = focal[0, 0]
    if float((focal / same - 1).abs().max()) > 1e-5:
        raise Gen3dError(
            f"{split}: focal lengths differ; a D-NeRF folder has one for all, with square pixels"
        )
    middle = focal.new_tensor([cameras.width / 2, cameras.height / 2])
    if float((centre - middle).abs().max()) > 1e-3:
        raise Gen3dError(
            f"{split}: an optical axis meets its image at {centre[0].tolist()}; a D-NeRF folder has it "
            f"in the middle, {middle.tolist()}"
        )


def _transforms(name: str, views: Views) -> dict[str, Any]:
    cameras = views.cameras
    poses = np.tile(np.eye(4), (len(views), 1, 1))
    poses[:, :3] = cameras.camera_to_world.double().cpu().numpy()
    frames: list[dict[str, Any]] = []
    for i, pose in enumerate(poses):
        frame: dict[str, Any] = {"file_path": f"./{name}/r_{i:03d}"}
        if cameras.times is not None:
            frame["time"] = float(cameras.times[i])
        frames.append({**frame, "transform_matrix": pose.tolist()})
    angle = 2 * math.atan(cameras.width / 2 / float(cameras.focal[0, 0]))
    return {"camera_angle_x": angle, "frames": frames}
