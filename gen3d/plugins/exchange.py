"""Checkpoints of nerfstudio's `gen3d-shade` and `gen3d-voxel` as scenes of gen3d.

python -m gen3d.plugins.exchange outputs/walk/gen3d-shade/2026-01-01_120000 runs/walk

The other way, `ns-train gen3d-shade --pipeline.model.begin-from runs/walk` goes on from a scene of gen3d.
"""

import argparse
import json
import pickle
import sys
from pathlib import Path

import torch

from gen3d.config import from_dict
from gen3d.domains.dynamic_scene.config import DynamicSceneConfig, make_field
from gen3d.domains.dynamic_scene.domain import DynamicSceneDomain
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras
from gen3d.fields.occupancy import Occupancy
from gen3d.scenes.scene import Scene, write_scene

PREFIX = "_model."


def to_scene(source: Path, out: Path) -> Scene:
    """Write the checkpoint of gen3d that a checkpoint of nerfstudio amounts to.

    Args:
        source: a .ckpt file, or a run folder of nerfstudio, whose latest one is taken; nothing is unpickled.
        out: the folder to write.

    Raises:
        Gen3dError: no such file, or it is of another method.
    """
    file = _latest(source)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        state = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in loaded["pipeline"].items()
            if name.startswith(PREFIX)
        }
        about = json.loads(bytes(state["about"].tolist()))
        box, cells = state["occupancy.box"], state["occupancy.cells"]
        stage, step = int(state["stage"]), int(loaded["step"]) + 1
        poses, focal, centre, times = (state[name] for name in ("poses", "focal", "centre", "times"))
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise Gen3dError(f"{file} is no checkpoint of gen3d-shade or gen3d-voxel: {error}") from error
    resolution = about["resolutions"][stage]
    field = make_field(from_dict(DynamicSceneConfig, about["domain_config"], str(file)), box, resolution)
    field.load_state_dict(
        {name.removeprefix("field."): tensor for name, tensor in state.items() if name.startswith("field.")}
    )
    occupancy = Occupancy(box, cells.shape[1], cells.shape[0])
    occupancy.cells.copy_(cells)
    width, height, samples = (about["scene"][name] for name in ("width", "height", "samples"))
    cameras = Cameras(poses, focal, centre, width, height, times if len(times) else None)
    scene = Scene(field.eval(), occupancy, cameras, samples)
    config = {
        "domain": DynamicSceneDomain.name,
        "domain_config": about["domain_config"],
        "resolution": resolution,
        "fit": {"steps": step, "views": len(cameras)},
    }
    method = about["domain_config"]["method"]
    card = (
        f"# A scene\n\nFitted inside nerfstudio to {len(cameras)} pictures ({method}, {step} steps); "
        f"{scene.megabytes:.1f} MB.\n"
    )
    write_scene(scene, out, config, card)
    return scene


def _latest(source: Path) -> Path:
    if source.is_file():
        return source
    files = sorted([*source.glob("step-*.ckpt"), *source.glob("nerfstudio_models/step-*.ckpt")])
    if not files:
        raise Gen3dError(f"{source} is no .ckpt file, and holds no step-*.ckpt")
    return files[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a .ckpt file or a run folder of nerfstudio")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    try:
        scene = to_scene(arguments.source, arguments.out)
    except Gen3dError as error:
        sys.exit(f"error: {error}")
    print(f"{scene.megabytes:.1f} MB -> {arguments.out}")


if __name__ == "__main__":
    main()
