"""Films, pictures and meshes of a fitted scene."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3d import media
from gen3d.domains.dynamic_scene.options import DynamicSceneOptions
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras, around
from gen3d.files import atomic_write
from gen3d.progress import tqdm
from gen3d.scenes.gallery import Z_TO_Y
from gen3d.scenes.scene import Scene

MESHES = (".glb", ".obj", ".ply")
PICTURES = (*media.FILMS, ".png")
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


def show(scene: Scene, options: DynamicSceneOptions, out: Path | None, progress: bool) -> list[Path]:
    """Write what is asked for; returns the files.

    Raises:
        Gen3dError: an option out of range, or an extension that nothing writes.
    """
    _check(options)
    suffix = out.suffix if out is not None and out.suffix else f".{(options.format or 'mp4').lstrip('.')}"
    if suffix not in MESHES + PICTURES:
        allowed = ", ".join(name.lstrip(".") for name in MESHES + PICTURES)
        raise Gen3dError(f"cannot write {suffix!r}; allowed: {allowed}")
    if out is None:
        out = Path(f"dynamic-scene{suffix}")
    elif not out.suffix and options.format is not None:
        out = out.with_suffix(suffix) if options.time is not None or suffix in media.FILMS else out
    return (
        _meshes(scene, options, out, suffix, progress)
        if suffix in MESHES
        else _film(scene, options, out, progress)
    )


def path_of(scene: Scene, options: DynamicSceneOptions) -> Cameras:
    """The cameras of the film, as far away and with the lens of those that the scene was fitted to."""
    count = max(1, round(options.seconds * options.fps))
    own = scene.cameras
    middle = scene.field.box.mean(0)
    radius = float((own.positions - middle).norm(dim=1).median())
    field_of_view = math.degrees(2 * math.atan(0.5 * own.width / float(own.focal[:, 0].median())))
    width = options.width or own.width
    height = options.height or max(1, round(width * own.height / own.width))
    running = torch.arange(count) / count
    turn = 360 * running if options.path == "orbit" else torch.zeros(count)
    times = torch.linspace(0, 1, count)
    if options.time is not None:
        times = torch.full((count,), options.time)
    x, y, z = middle.tolist()
    return around(
        options.azimuth + turn,
        torch.full((count,), options.elevation),
        radius=radius,
        target=(x, y, z),
        field_of_view=field_of_view,
        width=width,
        height=height,
        times=times if scene.moves else None,
    )


def _film(scene: Scene, options: DynamicSceneOptions, out: Path, progress: bool) -> list[Path]:
    cameras = path_of(scene, options)
    if out.suffix == ".png":
        media.write_png(_picture(scene, cameras, 0, options), out)
        return [out]

    def pictures() -> Iterator[Tensor]:
        for view in tqdm(range(len(cameras)), desc="pictures", disable=not progress):
            yield _picture(scene, cameras, view, options)

    return media.write_film(pictures(), out, options.fps)


def _picture(scene: Scene, cameras: Cameras, view: int, options: DynamicSceneOptions) -> Tensor:
    seen = scene.render(
        cameras, view, background=BACKGROUNDS[options.background], normals=options.show == "normals"
    )
    if options.show == "depth":
        return media.depth_picture(seen.depth, seen.opacity)
    if options.show == "normals":
        assert seen.normals is not None
        return media.normal_picture(seen.normals, seen.opacity)
    return seen.colour[..., :3]


def _meshes(scene: Scene, options: DynamicSceneOptions, out: Path, suffix: str, progress: bool) -> list[Path]:
    if options.time is not None or not scene.moves:
        made = scene.at(options.time or 0.0).mesh(resolution=options.resolution)
        target = out if out.suffix else out.with_suffix(suffix)
        _write_mesh(made, target)
        return [target]
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    count = max(2, round(options.seconds * options.fps))
    files = []
    for number in tqdm(range(count), desc="meshes", disable=not progress):
        made = scene.at(number / (count - 1)).mesh(resolution=options.resolution)
        files.append(folder / f"{number:04}{suffix}")
        _write_mesh(made, files[-1])
    return files


def _write_mesh(made: Any, path: Path) -> None:
    if path.suffix == ".glb":
        made.apply_transform(Z_TO_Y)  # glTF has +y up; other formats leave it open
    content = made.export(file_type=path.suffix[1:])
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _check(options: DynamicSceneOptions) -> None:
    for name in ("seconds", "fps"):
        if not 0 < getattr(options, name) < math.inf:
            raise Gen3dError(f"--{name} is {getattr(options, name)}; it must be above 0")
    for name in ("width", "height"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise Gen3dError(f"--{name} is {value}; at least 1 pixel")
    if options.time is not None and not 0 <= options.time <= 1:
        raise Gen3dError(f"--time is {options.time}; allowed: 0 to 1")
    if not -90 <= options.elevation <= 90:
        raise Gen3dError(f"--elevation is {options.elevation}; allowed: -90 to 90 degrees")
