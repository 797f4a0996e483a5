"""How documented commands are made small enough to be run, and the files that they name.

`smaller` adds flags to a command, the later of two winning: fewer samples, fewer steps, networks of a few
channels. What is read from the web comes from `data/tiny` instead. `FILES` makes whatever a command reads,
in the format that it has for users.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
import yaml
from documented import ROOT

from gen3d import cli, io
from gen3d.config import merge
from gen3d.flags import flag_value

TINY = ROOT / "data" / "tiny"

NOT_RUN = {
    "pip install": "needs the network; .ci/run runs those of the README",
    "python3 -m venv": "needs the network, with the pip that follows; .ci/run runs those of the README",
    ".venv/bin/pip": "needs the network; .ci/run runs those of the README",
    ".venv-nerfstudio/bin/pip": "needs the network; .ci/nerfstudio/run installs what the methods need",
    ".venv/bin/pytest": "would run itself; .ci/run runs it",
    "ns-eval": "needs a run of nerfstudio: .ci/nerfstudio/run",
    "ns-train": "needs nerfstudio, in an environment of its own: .ci/nerfstudio/run",
    "python -m gen3d.plugins.exchange": "needs a run of nerfstudio: .ci/nerfstudio/run",
    "HEAD=": "asks SLURM for the names of its machines",
}
"""How commands begin that are not run, and why."""

STARTERS = ("torchrun", "accelerate", "srun")
"""Programs that start gen3d many times over; here it runs once, in the test's own process."""

FLAGS: list[tuple[str, str]] = [
    ("sample", "--n 2 --steps 2"),
    ("sample --shard", "--n 8"),
    ("sample --valid-only", "--n 1 --steps 8 --batch-size 4"),
    ("sample --representation mesh", "--n 1 --steps 6"),
    ("sample --interpolate", "--frames 3"),
    ("sample --domain scene-prior", "--no-preview"),
    ("sample --domain shape !chairs/", "--no-preview"),
    ("sample --domain dynamic-scene", "--no-preview --seconds 0.1 --width 16 --resolution 12"),
    ("sample --domain latent-nerf", "--no-preview --seconds 0.1 --width 16 --resolution 16"),
    ("sample --domain voxel-edit", "--no-preview --seconds 0.1 --width 16 --resolution 16"),
    ("evaluate", "--limit 2 --workers 0"),
    ("evaluate --domain shape", "--checks emd=none"),
    ("evaluate --domain dynamic-scene", "--checks size=16"),
    ("prepare --domain image", "--limit 8 --size 32"),
    ("prepare --domain object", "--limit 8"),
    ("prepare --domain scene-prior", "--limit 2"),
    ("train", "--quiet"),
    (
        "train --from !dynamic-scene",
        "--train.steps 2 --train.batch_size 4 --train.warmup 0 --train.valid_samples 2",
    ),
    (
        "train --config !dynamic-scene",
        "--train.steps 2 --train.batch_size 4 --train.warmup 0 --train.codec_steps 2 "
        "--train.latent_batches 1 --train.valid_samples 2",
    ),
    ("train --from --config", "--train.codec_steps 0"),
    ("train --domain image", "--train.codec_steps 0"),
    ("train --domain object", "--train.codec_steps 0"),
    ("train --train.shard", "--train.shard false"),
    (
        "train configs/scene-prior.yaml",
        "--domain_config.width 32 --domain_config.depth 1 --domain_config.features 8 "
        "--domain_config.asked 128",
    ),
    (
        "train configs/molecule_s_paper.yaml",
        "--domain_config.codec.width 32 --domain_config.codec.depth 1 --domain_config.codec.heads 2",
    ),
    (
        "train --domain dynamic-scene !--fit.steps",
        "--fit.steps 3 --fit.rays 64 --fit.samples 16 --fit.resolutions [12] --fit.grow_at [0.0]",
    ),
]
"""Words that a command has, or with ! has not, and the flags that then make it small."""

SMALL_MODEL = "--model.width 32 --model.depth 1 --model.heads 2"
"""For transformers that are trained from nothing."""

SMALL_FIT = {
    "latent-nerf": {
        "fit": {"steps": 2, "samples": 8, "views": 1, "rgb_views": 1, "rgb_size": 16, "fine": 1},
    },
    "voxel-edit": {
        "domain_config": {"pictures": 6, "size": 24, "initial": {"steps": 4, "rays": 64, "samples": 16}},
        "fit": {"steps": 2, "samples": 8, "rgb_size": 16},
    },
}
"""What the YAML files of scenes made from words say instead."""

LOCAL = {"qm9": "mine.sdf", "mp-20": "oxides.cif", "sweethome3d": "my_meshes"}
"""What takes the place of the sources that are fetched: files of the same kind."""


def smaller(words: list[str], folder: Path) -> list[str]:
    """The words of a command, made small; files that it then needs are written into the folder."""
    words = list(words)
    domain = domain_of(words)
    if words[0] == "prepare" and "--source" in words:
        place = words.index("--source") + 1
        names = words[place].split(",")
        if domain in ("image", "object"):
            names = [name for name in names if name not in LOCAL] or ["characters"]
        words[place] = ",".join(LOCAL.get(name, name) for name in names)
    added = [flag for pattern, flags in FLAGS if _matches(pattern, words) for flag in flags.split()]
    if words[0] == "train" and "--from" not in words and domain != "dynamic-scene":
        added += SMALL_MODEL.split()
    if domain in SMALL_FIT and words[0] == "sample":
        config = flag_value(words, "--config")
        values = (
            {"domain": domain} if config is None else yaml.safe_load((folder / config).read_text("utf-8"))
        )
        values = merge(values, SMALL_FIT[domain])
        values["fit"] |= {"resolutions": [12], **({"grow_at": [0.0]} if domain == "voxel-edit" else {})}
        if domain == "voxel-edit":
            values["domain_config"]["initial"] |= {"resolutions": [12], "grow_at": [0.0]}
        (folder / "small.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        added += ["--config", "small.yaml"]
        added = [flag for i, flag in enumerate(added) if "--steps" not in added[max(0, i - 1) : i + 1]]
    return words + added


def domain_of(words: list[str]) -> str | None:
    """The domain that a command of gen3d is about."""
    named, config = flag_value(words, "--domain"), flag_value(words, "--config")
    return named or (None if config is None else Path(config).name.replace(".", "_").split("_")[0])


def _matches(pattern: str, words: list[str]) -> bool:
    return all((word.removeprefix("!") in words) != word.startswith("!") for word in pattern.split())


# ---- files that commands read


def _molecules(target: Path) -> None:
    shutil.copy(TINY / "qm9.sdf", target)


def _crystals(target: Path) -> None:
    io.write(io.read(TINY / "crystals.cif"), target)


def _scaffold(target: Path) -> None:
    io.write(io.read(TINY / "qm9.sdf")[8], target)


def _cloud(target: Path) -> None:
    cloud = np.asarray(io.read(TINY / "shapes.npz")[0].vertices)
    io.write(trimesh.PointCloud(cloud[cloud[:, 1] > 0] if target.stem == "scan" else cloud), target)


def _clouds(target: Path) -> None:
    shutil.copy(TINY / "shapes.npz", target)


def _mesh(target: Path) -> None:
    seat = trimesh.creation.box(extents=(1, 0.2, 1))
    back = trimesh.creation.box(extents=(1, 1, 0.2)).apply_translation((0, 0.5, -0.4))
    trimesh.util.concatenate([seat, back]).export(target)


def _meshes(target: Path) -> None:
    for kind in ("chair", "table"):
        (target / kind).mkdir(parents=True)
        for i in range(10):
            trimesh.creation.box(extents=(1, 1 + i / 10, 1)).export(target / kind / f"{i}.obj")


def _characters(target: Path) -> None:
    """Two balls that swing, as sequences of frames with colours and captions."""
    target.mkdir()
    for name, shift in (("knight", 0.2), ("mage", 0.4)):
        ball = trimesh.creation.icosphere(2, 0.5)
        swing = [np.array([shift * np.sin(t), 0, 0.1 * t]) for t in np.linspace(0, 3, 6)]
        moves = [ball.vertices + step for step in swing]
        colours = np.tile(np.array([200, 40, 40], np.uint8), (len(ball.vertices), 1))
        arrays = {"vertices": np.stack(moves), "faces": ball.faces, "vertex_colors": colours}
        np.savez(target / f"{name}.npz", **arrays)
    (target / "captions.csv").write_text("knight.npz,knight\nmage.npz,mage\n", encoding="utf-8")


def _walk(target: Path) -> None:
    """An animated mesh."""
    _characters(target.with_name("walkers"))
    shutil.copy(target.with_name("walkers") / "knight.npz", target)


def _capture(target: Path) -> None:
    shutil.copytree(TINY / "scene", target)


def _pictures(target: Path) -> None:
    """The tiny pictures, as large as those that the shipped prior was trained on."""
    _data("views.npz")(target)
    for file in target.iterdir():
        with np.load(file) as arrays:
            content = dict(arrays)
        np.savez(file, **{**content, "images": content["images"].repeat(4, 1).repeat(4, 2)})


def _data(name: str) -> Callable[[Path], None]:
    def copy(target: Path) -> None:
        target.mkdir(parents=True)
        for split in ("train", "valid", "test"):
            shutil.copy(TINY / name, target / f"{split}.npz")

    return copy


def _prompts(target: Path) -> None:
    target.write_text("a red chair\na blue sofa\n", encoding="utf-8")


def _pipeline(target: Path) -> None:
    """A pipeline of Stable Diffusion's classes, tiny and untrained."""
    from tiny_diffusion import save_pipeline

    save_pipeline(target.parent).rename(target)


def _gen3d(command: str) -> Callable[[Path], None]:
    """What another command writes into TARGET."""

    def write(target: Path) -> None:
        words = command.replace("TARGET", str(target)).replace("TINY", str(TINY)).split()
        bring(words, Path(), Path())
        assert cli.main(smaller(words, Path())) == 0

    return write


def _scene(target: Path) -> None:
    """A moving scene, fitted once whatever its name."""
    made = Path("scene")
    if not made.exists():
        _gen3d(
            "train --domain dynamic-scene --config configs/dynamic-scene_debug.yaml --data capture "
            "--out TARGET --quiet --fit.steps 80 --fit.rays 256 --fit.samples 24 --fit.resolutions [12] "
            "--fit.grow_at [0.0]"
        )(made)
    shutil.copytree(made, target)


FILES: dict[str, Callable[[Path], object]] = {
    "configs": lambda target: target.symlink_to(ROOT / "configs"),
    "core.sdf": _scaffold,
    "mine.sdf": _molecules,
    "molecules.sdf": _molecules,
    "parts": lambda target: (target.mkdir(), _molecules(target / "0.sdf")),
    "crystals.zip": _crystals,
    "oxides.cif": _crystals,
    "relaxed.cif": _crystals,
    "a.ply": _cloud,
    "b.ply": _cloud,
    "scan.ply": _cloud,
    "samples.npz": _clouds,
    "shapes.npz": _clouds,
    "chair.glb": _mesh,
    "teddy.obj": _mesh,
    "horse.obj": _mesh,
    "my_meshes": _meshes,
    "characters": _characters,
    "walk.npz": _walk,
    "capture": _capture,
    "few": _capture,
    "data/few": _capture,
    "data/lego": _capture,
    "dnerf/lego": _capture,
    "data/qm9": _gen3d("prepare --domain molecule --source mine.sdf --out TARGET --quiet"),
    "data/mine": _gen3d("prepare --domain molecule --source mine.sdf --out TARGET --quiet"),
    "data/mp-20": _gen3d("prepare --domain crystal --source oxides.cif --out TARGET --quiet"),
    "data/images": _pictures,
    "image:data/mine": _pictures,
    "data/objects": _data("objects.npz"),
    "object:data/mine": _data("objects.npz"),
    "data/scene-prior": _data("moving.npz"),
    "data/sweethome3d": _data("shapes.npz"),
    "prompts.txt": _prompts,
    "stabilityai/stable-diffusion-2-1-base": _pipeline,
    "scenes": _gen3d("sample --domain scene-prior --out TARGET --quiet"),
    "runs/scene-prior/checkpoint": lambda target: shutil.copytree(ROOT / "gen3d/weights/scene-prior", target),
    **{
        f"runs/{name}/checkpoint": lambda target: shutil.copytree(ROOT / "gen3d/weights/molecule", target)
        for name in ("mine", "gap", "few")
    },
    "runs/mine": _scene,
    "runs/mage": _scene,
    "runs/lego": _scene,
    "edit": _gen3d("sample --domain voxel-edit --input chair.glb --prompt bed --out TARGET --quiet"),
    "sofa": _gen3d("sample --domain latent-nerf --prompt bed --out TARGET --quiet"),
}
"""Everything that some command reads, by its name there; before a colon the only domain that it is for."""
NAMES = {"lego": "dnerf/lego", "qm9": "data/qm9", "mp-20": "data/mp-20"}
"""Names of data sets, and where they are looked for when GEN3D_CACHE is the folder itself."""


def needed(words: list[str]) -> list[str]:
    """The names in FILES of what a command reads."""
    inputs = [word for i, word in enumerate(words) if i == 0 or words[i - 1] != "--out"]
    parts = [part.partition(":")[2] or part for word in inputs for part in word.split(",")]
    found = []
    for part in (NAMES.get(part, part.rstrip("/")) for part in parts):
        within = [name for name in FILES if part == name or part.startswith(f"{name}/")]
        found += [max(within, key=len)] if within else []
    return [own if (own := f"{domain_of(words)}:{name}") in FILES else name for name in found]


def bring(words: list[str], store: Path, folder: Path) -> None:
    """Put what a command reads into the folder; it is made once, in the store."""
    for name in needed(words):
        # In the store no name lies inside another: runs/mine is a scene, runs/mine/checkpoint of molecules.
        kept = name.replace("/", "%")
        made, target = store / kept, folder / name.rpartition(":")[2]
        if not made.exists():
            with contextlib.chdir(store):
                FILES[name](Path(kept))
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if made.is_symlink():
            target.symlink_to(made.readlink())
        else:
            (shutil.copytree if made.is_dir() else shutil.copy)(made, target)
