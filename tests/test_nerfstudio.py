"""gen3d's methods in the real nerfstudio, by its own commands, on a processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gen3d
from gen3d.captures import read_views
from gen3d.cli import main
from gen3d.errors import Gen3dError

pytest.importorskip("nerfstudio", reason="nerfstudio has an environment of its own: .ci/nerfstudio/run")

from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry import discover_methods
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gen3d.domains.dynamic_scene.config import DynamicSceneConfig
from gen3d.plugins.exchange import to_scene
from gen3d.plugins.nerfstudio import Gen3dModel, Gen3dModelConfig

pytestmark = pytest.mark.slow

TINY = Path(__file__).parents[1] / "data" / "tiny" / "scene"
SMALL = {
    "pipeline.model.resolutions": "12 20",
    "pipeline.model.grow-at": "0.0 0.4",
    "pipeline.model.samples": "40",
    "pipeline.model.scene.parts": "6",
}
"""A field that is fitted in seconds."""


def nerfstudio(command: str, *words: object) -> str:
    """The output of one of nerfstudio's commands."""
    program = Path(sys.executable).with_name(command)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [program, *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def train(out: Path, name: str, steps: int, **changes: object) -> Path:
    """Train on the tiny scene; returns the run folder."""
    flags = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    words = [word for key, value in flags.items() for word in (f"--{key}", *str(value).split())]
    nerfstudio("ns-train", name, "--machine.device-type", "cpu", "--vis", "tensorboard",
               "--max-num-iterations", steps, "--output-dir", out, "--experiment-name", "tiny",
               "--timestamp", "run", *words, "--data", TINY)  # fmt: skip
    return out / "tiny" / name / "run"


def evaluated(run: Path) -> dict[str, float]:
    nerfstudio("ns-eval", "--load-config", run / "config.yml", "--output-path", run / "eval.json")
    return json.loads((run / "eval.json").read_text())["results"]


def losses(run: Path) -> list[float]:
    events = EventAccumulator(str(run))
    events.Reload()
    return [event.value for event in events.Scalars("Train Loss Dict/rgb")]


@pytest.fixture(scope="module")
def shade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("shade"), "gen3d-shade", 150)


@pytest.fixture(scope="module")
def scene(shade: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of gen3d that the run amounts to."""
    out = tmp_path_factory.mktemp("scene") / "scene"
    to_scene(shade, out)
    return out


def test_methods_are_registered():
    methods, descriptions = discover_methods()
    assert {"gen3d-shade", "gen3d-voxel"} <= methods.keys()
    assert all(descriptions[name].startswith("gen3d") for name in ("gen3d-shade", "gen3d-voxel"))


def test_it_learns_what_held_out_cameras_saw(shade):
    found = losses(shade)
    assert found[-1] < 0.25 * found[0]
    images = read_views(TINY, "test").composited()
    blank = np.mean([-10 * np.log10(((image - 1) ** 2).mean()) for image in images])
    assert evaluated(shade)["psnr"] > blank + 4


def test_gen3d_sees_the_same_in_its_checkpoint(shade, scene):
    """Two programs that share the field alone: pictures, cameras and metric are each one's own."""
    assert main(["evaluate", "--domain", "dynamic-scene", "--samples", str(scene),
                 "--reference", str(TINY), "--quiet"]) == 0  # fmt: skip
    ours = json.loads((scene / "metrics.json").read_text())["metrics"]
    assert ours["psnr"]["value"] == pytest.approx(evaluated(shade)["psnr"], abs=0.03)


def test_nerfstudio_sees_the_same_in_a_checkpoint_of_gen3d(scene):
    model = begun(scene).eval()
    found = gen3d.load(scene)
    rays = found.cameras.image_rays(3)
    bundle = RayBundle(
        origins=rays.origins,
        directions=rays.directions,
        pixel_area=torch.ones(len(rays), 1),
        times=rays.times[:, None],
    )
    with torch.no_grad():
        seen = model.get_outputs(bundle)
    ours = found.render(found.cameras, 3)
    assert torch.allclose(seen["rgb"], ours.colour.clamp(0, 1).view(-1, 3), atol=1e-5)
    assert torch.allclose(seen["depth"][:, 0], ours.depth.view(-1), atol=1e-4)


def begun(scene: Path, parts: int = 6) -> Gen3dModel:
    of = DynamicSceneConfig(parts=parts)
    config = Gen3dModelConfig(
        begin_from=scene, scene=of, resolutions=(12, 20), grow_at=(0.0, 0.4), samples=40
    )
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    return config.setup(scene_box=box, num_train_data=1)


def test_a_checkpoint_of_another_field_is_refused(scene):
    with pytest.raises(Gen3dError, match="'parts': 6"):
        begun(scene, parts=5)


def test_training_goes_on_from_a_checkpoint_of_gen3d(scene, tmp_path):
    changes = {"pipeline__model__begin-from": scene}
    assert losses(train(tmp_path, "gen3d-shade", 20, **changes))[0] < 0.01


def test_a_resume_goes_on(shade, tmp_path):
    changes = {"load-dir": shade / "nerfstudio_models"}
    run = train(tmp_path, "gen3d-shade", 50, **changes)
    assert [file.name for file in (run / "nerfstudio_models").iterdir()] == ["step-000000199.ckpt"]
    assert evaluated(run)["psnr"] > evaluated(shade)["psnr"] - 0.5


def test_pictures_are_rendered(shade, tmp_path):
    nerfstudio("ns-render", "dataset", "--load-config", shade / "config.yml", "--output-path", tmp_path,
               "--split", "test", "--rendered-output-names", "rgb", "depth")  # fmt: skip
    assert len(list((tmp_path / "test" / "rgb").iterdir())) == len(read_views(TINY, "test"))
    assert len(list((tmp_path / "test" / "depth").iterdir())) == len(read_views(TINY, "test"))


def test_voxels(tmp_path):
    """nerfstudio's parser of Blender's layout reads no times: what moves is blurred, and still is learnt."""
    small = {"pipeline__model__scene__parts": 1, "pipeline__model__scene__hull-share": 0.5}
    run = train(tmp_path / "run", "gen3d-voxel", 100, **small)
    found = losses(run)
    assert found[-1] < 0.5 * found[0]
    made = to_scene(run, tmp_path / "scene")
    assert not made.moves
    assert gen3d.load(tmp_path / "scene").field.shape == made.field.shape


class TestWhatIsNoCheckpoint:
    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(Gen3dError, match="holds no step"):
            to_scene(tmp_path, tmp_path / "scene")

    def test_a_file_cut_short(self, shade, tmp_path):
        file = next((shade / "nerfstudio_models").iterdir())
        cut = tmp_path / "step-000000001.ckpt"
        cut.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(Gen3dError, match="is no checkpoint of gen3d-shade"):
            to_scene(cut, tmp_path / "scene")
        assert not (tmp_path / "scene").exists()

    def test_another_method(self, tmp_path):
        torch.save({"step": 1, "pipeline": {"_model.weight": torch.zeros(1)}}, tmp_path / "step-1.ckpt")
        with pytest.raises(Gen3dError, match="'about'"):
            to_scene(tmp_path, tmp_path / "scene")
