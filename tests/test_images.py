"""Pictures: what is seen, what is said of it, the prior as users run it, and judges that know neither."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from scipy import fft
from skimage import color, data

from gen3d import judges
from gen3d.captures.compose import Composer, withheld
from gen3d.captures.render import Light, render_mesh
from gen3d.captures.things import GENERIC, Thing, read_things
from gen3d.cli import main
from gen3d.colours import NAMED, lab, names_of, shade_of
from gen3d.config import load_yaml
from gen3d.diffusion.priors import GeneratorPrior
from gen3d.domains.images.codec import COLOURS, ImageCodec, ImageConfig
from gen3d.domains.images.dataset import collate, open_dataset
from gen3d.domains.images.domain import ImageDomain
from gen3d.domains.images.metrics import frechet_distance
from gen3d.domains.images.options import ImageOptions
from gen3d.domains.images.prepare import prepare
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.nn import text
from gen3d.nn.attention import TextAttention
from gen3d.run_config import run_config
from gen3d.scenes.viewpoints import cameras, directions, view_words
from gen3d.train import train

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny" / "views.npz"


def cube(noun: str = "box", parts: int = 1, **changes: Any) -> Thing:
    mesh = trimesh.creation.box((1, 1, 1))
    part = np.arange(len(mesh.faces)) % parts
    colours = np.tile(np.array([[200, 30, 30]], np.uint8), (len(mesh.faces), 1))
    radius = np.sqrt(3) / 2
    return Thing(
        noun, noun, (), (mesh.vertices / radius).astype(np.float32), mesh.faces, part, colours, **changes
    )


class TestColours:
    def test_lab_is_that_of_scikit_image(self) -> None:
        rgb = np.random.default_rng(0).integers(0, 256, (500, 3))
        assert np.allclose(lab(rgb), color.rgb2lab(rgb / 255), atol=0.05)

    def test_every_example_and_every_drawn_shade_has_its_name(self) -> None:
        random = np.random.default_rng(0)
        for name, examples in NAMED.items():
            assert {str(n) for n in names_of(np.array(examples))} == {name}
            assert {str(n) for n in names_of(np.stack([shade_of(name, random) for _ in range(50)]))} == {name}


class TestJudges:
    def test_photographs_are_recognised(self) -> None:
        """Two photographs that scikit-image comes with; what they show is known."""
        cat, coffee = (_square(picture) for picture in (data.chelsea(), data.coffee()))
        assert judges.recognised(cat, ["cat"]).tolist() == [True]
        assert judges.recognised(coffee, ["cup"]).tolist() == [True]
        assert judges.recognised(cat, ["car"]).tolist() == [False]

    def test_padding_is_that_of_tensorflow(self) -> None:
        """SAME padding: as many cells as size over stride, rounded up; more of it after than before."""
        layer = judges._Same(1, 1, 3, 2)
        torch.nn.init.ones_(layer.weight)
        assert layer(torch.ones(1, 1, 4, 4)).flatten().tolist() == [9, 6, 6, 4]
        assert layer(torch.ones(1, 1, 5, 5)).shape[-2:] == (3, 3)

    def test_colours_of_what_is_shown(self) -> None:
        picture = np.full((20, 20, 3), 255, np.uint8)
        assert judges.colour_shares(picture) == {}
        assert not judges.shows_colour(picture, "red")
        picture[5:15, 5:15] = (200, 25, 30)
        shares = judges.colour_shares(picture)
        assert (shares["red"], shares["blue"], shares["grey"]) == (1.0, 0.0, 0.0)
        assert judges.shows_colour(picture, "red")
        assert not judges.shows_colour(picture, "blue")
        picture[5:9, 5:15] = (90, 11, 13)  # the same in the shade
        assert judges.shows_colour(picture, "red")
        picture[5:15, 5:15] = (130, 130, 130)
        assert judges.shows_colour(picture, "grey")
        assert not judges.shows_colour(picture, "red")

    def test_nouns_that_nothing_counts_as_are_named(self) -> None:
        with pytest.raises(Gen3dError, match="no class of ImageNet counts as 'gnome'"):
            judges.recognised(torch.ones(1, 3, 32, 32), ["gnome"])

    def test_frechet_distance_of_gaussians(self) -> None:
        """Of diagonal Gaussians: the squared distances of the means and of the deviations."""
        random = np.random.default_rng(0)
        one = random.normal(0, (1, 2, 3), (200_000, 3))
        other = random.normal((1, 0, 0), (2, 2, 1), (200_000, 3))
        assert frechet_distance(one, other) == pytest.approx(1 + 1 + 0 + 4, abs=0.1)
        assert frechet_distance(one[:50], one[:50]) == pytest.approx(0, abs=1e-9)


class TestViews:
    @pytest.mark.parametrize(
        ("azimuth", "elevation", "words"),
        [(0, 10, "front view"), (90, 10, "side view"), (-100, 0, "side view"), (180, 30, "back view"),
         (350, 0, "front view"), (0, 75, "overhead view")],
    )  # fmt: skip
    def test_words(self, azimuth: float, elevation: float, words: str) -> None:
        assert view_words(azimuth, elevation) == words

    def test_directions_are_those_of_the_cameras(self) -> None:
        azimuth, elevation = torch.tensor([0.0, 90.0, 200.0]), torch.tensor([0.0, 30.0, 60.0])
        seen = cameras(azimuth, elevation, 32)
        towards = torch.nn.functional.normalize(seen.positions, dim=1)
        assert torch.allclose(directions(azimuth, elevation), towards, atol=1e-6)
        assert torch.allclose(
            directions(torch.zeros(1), torch.zeros(1)), torch.tensor([[0.0, -1, 0]]), atol=1e-6
        )

    def test_the_ball_of_radius_1_is_in_the_picture_and_fills_it(self) -> None:
        ball = trimesh.creation.icosphere(3)
        colours = np.zeros((len(ball.vertices), 3), np.uint8)
        shots = cameras(torch.zeros(1), torch.zeros(1), 64)
        alpha = render_mesh(ball.vertices, ball.faces, colours, shots, samples=1)[0, ..., 3] > 0
        assert alpha[32].sum() >= 62
        assert not alpha[0, 0]


class TestPictures:
    def test_captions_tell_what_is_painted(self) -> None:
        composer = Composer([cube()], "train")
        for number in range(60):
            picture = composer.draw(np.random.default_rng(number))
            assert picture.noun == "box"
            assert "box" in picture.caption
            if picture.told:
                assert picture.colour in picture.caption.split()
                area = np.ones(len(picture.faces))
                names = names_of(picture.colours)
                share = sum(area[names == picture.colour]) / len(area)
                assert share > 0.3, picture.caption

    def test_pairs_that_are_withheld_are_never_told_in_training(self) -> None:
        composer = Composer([cube()], "train")
        secret = {colour for colour in NAMED if withheld(colour, "box")}
        assert secret
        told = [composer.draw(np.random.default_rng(n)) for n in range(300)]
        assert not {p.colour for p in told if p.told} & secret
        other = Composer([cube()], "test")
        assert {
            p.colour for p in (other.draw(np.random.default_rng(n)) for n in range(300)) if p.told
        } & secret

    def test_something_stands_on_something(self) -> None:
        composer = Composer([cube("table"), cube("lamp")], "train")
        pictures = [composer.draw(np.random.default_rng(n)) for n in range(200)]
        both = [p for p in pictures if p.other and " on " in p.caption]
        assert both
        for picture in both:
            base, top = picture.vertices[:8], picture.vertices[8:]
            assert top[:, 2].min() == pytest.approx(base[:, 2].max(), abs=1e-4)
            assert np.linalg.norm(picture.vertices, axis=1).max() <= 1.0001
            assert picture.caption.index("table") != picture.caption.index("lamp")

    def test_glossy_things_mirror_the_lamp(self) -> None:
        """Where the normal halves lamp and camera the highlight is `gloss` of white, elsewhere less."""
        light = Light(0.3, 0.4, (0.0, -1.0, 0.0), gloss=0.5)
        towards = np.array([[0.0, 1.0, 0.0]])  # a camera at the lamp looks along +y
        assert light.highlight(np.array([[0.0, -1.0, 0.0]]), towards)[0] == pytest.approx(0.5)
        aside = np.array([[np.sin(0.5), -np.cos(0.5), 0.0]])
        assert light.highlight(aside, towards)[0] == pytest.approx(0.5 * np.cos(0.5) ** 24)

    def test_names_of_furniture_have_common_words(self) -> None:
        import re

        wanted = {
            "armchair": "rattan armchair", "chair": "oak chair", "lamp": "desk lamp", "desk": "wooden desk",
            "table": "coffee table", "bed": "bunk bed", "car": "smart car", "bicycle": "bike",
            "sofa": "corner sofa",
            "tree": "christmas tree", "plant": "little plant", "woman": "sitting female", "man": "male",
        }  # fmt: skip
        for noun, name in wanted.items():
            assert next(w for w, pattern in GENERIC.items() if re.search(pattern, name)) == noun, name

    def test_folders_are_read_with_their_captions(self, tmp_path: Path) -> None:
        trimesh.creation.box((1, 2, 3)).export(tmp_path / "a1.ply")
        trimesh.creation.icosphere().export(tmp_path / "red_ball_2.ply")
        (tmp_path / "captions.csv").write_text("a1.ply,brick|stone\n")
        things = {thing.noun: thing for thing in read_things(str(tmp_path), False)}
        assert set(things) == {"brick", "red ball"}
        assert things["brick"].words == ("stone",)
        assert np.linalg.norm(things["brick"].vertices, axis=1).max() == pytest.approx(1)
        (tmp_path / "captions.csv").write_text("b.ply,brick\n")
        with pytest.raises(Gen3dError, match=r"captions.csv of .* names b.ply, which is not there"):
            read_things(str(tmp_path), False)
        (tmp_path / "captions.csv").write_text("a1.ply\n")
        with pytest.raises(Gen3dError, match="line 1 of"):
            read_things(str(tmp_path), False)
        with pytest.raises(Gen3dError, match="no source of pictures 'nowhere'"):
            read_things("nowhere", False)

    def test_preparing_again_makes_the_same_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        trimesh.creation.box((1, 2, 3)).export(tmp_path / "in" / "brick.ply")
        made = [
            prepare(str(tmp_path / "in"), tmp_path / n, size=32, limit=6, seed=1, progress=False)
            for n in "ab"
        ]
        assert made[0] == {"train": 6, "valid": 2, "test": 2}
        one, other = (np.load(tmp_path / n / "train.npz") for n in "ab")
        assert all(np.array_equal(one[name], other[name]) for name in one)
        views = open_dataset(tmp_path / "a", "train", 4, 32)
        assert "brick" in views.captions.words()
        vectors, mask = text.embed([views[0].caption])
        assert np.allclose(views[0].text, vectors[0][mask[0]].numpy(), atol=2e-3)
        with pytest.raises(Gen3dError, match="pictures of 32 pixels; the configuration has 64"):
            open_dataset(tmp_path / "a", "train", 4, 64)

    def test_a_mirrored_picture_is_seen_by_the_mirrored_camera(self) -> None:
        domain = Generator(debug().generator()).domain
        views = domain.dataset(TINY, "train")
        batch = domain.collate([views[0]], None)
        other = batch.mirrored(torch.tensor([True]))
        assert torch.equal(other.images, batch.images.flip(-1))
        assert torch.equal(other.camera * torch.tensor([-1.0, 1, 1]), batch.camera)


class TestCodec:
    def test_latents_are_the_cosine_transform_of_scipy(self) -> None:
        codec = ImageCodec(ImageConfig(size=16, latent_channels=3 * 64))
        picture = torch.randn(1, 3, 16, 16)
        colours = np.array(COLOURS) / np.linalg.norm(COLOURS, axis=1, keepdims=True)
        patch = np.einsum("kc,cij->kij", colours, picture[0, :, 8:, :8].numpy())
        want = np.sort(np.abs(fft.dctn(patch, axes=(1, 2), norm="ortho")).ravel())
        found = codec.to_latents(picture)[0, :, 1, 0] / codec.gain.flatten()
        assert np.allclose(np.sort(found.abs().numpy()), want, atol=1e-5)

    def test_untrained_it_gives_back_what_its_waves_hold(self) -> None:
        """All of a picture with all waves; with one, the mean brightness of each patch."""
        picture = torch.randn(2, 3, 32, 32)
        whole = ImageCodec(ImageConfig(size=32, latent_channels=3 * 64))
        assert torch.allclose(whole.to_images(whole.to_latents(picture)), picture, atol=1e-4)
        grey = ImageCodec(ImageConfig(size=32, latent_channels=1))
        want = F.interpolate(F.avg_pool2d(picture.mean(1, keepdim=True), 8), scale_factor=8)
        assert torch.allclose(grey.to_images(grey.to_latents(picture)), want.expand(-1, 3, -1, -1), atol=1e-5)

    def test_waves_come_by_strength(self) -> None:
        """Of a photograph, those that are kept hold several times what as many that come next do."""
        codec = ImageCodec(ImageConfig(latent_channels=3 * 64))
        photograph = 2 * _square(data.chelsea())[..., :296, :296] - 1
        energy = (codec.to_latents(photograph) / codec.gain).square().mean((0, 2, 3))
        assert energy[:24].sum() > 4 * energy[24:48].sum() > 8 * energy[-24:].sum()
        assert torch.all(codec.gain.diff(dim=0) >= 0)

    def test_more_waves_than_there_are_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="latent_channels is 193; allowed: up to 192"):
            ImageConfig(latent_channels=193)

    def test_what_it_gives_back_is_the_nearest_that_its_waves_can_make(self) -> None:
        """A projection: what is missing is orthogonal to all that the waves make."""
        codec = ImageCodec(ImageConfig(size=32))
        picture = torch.randn(2, 3, 32, 32)
        kept = codec.to_images(codec.to_latents(picture))
        assert torch.allclose(codec.to_images(codec.to_latents(kept)), kept, atol=1e-5)
        other = codec.to_images(torch.randn(2, codec.config.latent_channels, 4, 4))
        assert abs(((picture - kept) * other).sum()) < 1e-3 * (picture * other).abs().sum()

    def test_training_it_is_an_error(self) -> None:
        batch = collate([open_dataset(TINY, "train", 16)[0]], torch.zeros(1, 3), None)
        with pytest.raises(Gen3dError, match="latents of pictures need no codec"):
            ImageCodec(ImageConfig(size=32)).loss(batch, Draws(0, torch.arange(1)))


def debug() -> Any:
    return run_config(load_yaml(ROOT / "configs" / "image_debug.yaml"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(debug(), TINY, tmp_path_factory.mktemp("image"), progress=False)


class TestPrior:
    def test_the_command_line_makes_pictures(self, checkpoint: Path, tmp_path: Path) -> None:
        words = ["--prompt", "a red knight", "--azimuth", "90", "--elevation", "20", "--n", "2"]
        main(
            [
                "sample",
                "--domain",
                "image",
                "--checkpoint",
                str(checkpoint),
                *words,
                "--out",
                str(tmp_path / "v"),
            ]
        )
        assert sorted(p.name for p in (tmp_path / "v").iterdir()) == [
            "image.preview.png", "image_0000.png", "image_0001.png", "samples.json",
        ]  # fmt: skip
        record = json.loads((tmp_path / "v" / "samples.json").read_text())
        assert record["options"]["prompt"] == "a red knight"

    def test_prompts_of_a_file_come_in_turn(self, checkpoint: Path, tmp_path: Path) -> None:
        file = tmp_path / "prompts.txt"
        file.write_text("a red knight\n\na pink mage\n")
        domain = Generator.from_pretrained(checkpoint, "cpu").domain
        draws = Draws(0, torch.arange(3))
        told = domain.layout(ImageOptions(prompts=str(file)), draws).conditions
        vectors, mask = text.embed(["a red knight", "a pink mage", "a red knight"])
        length = vectors.shape[1]
        assert torch.allclose(told["text"][:, :length], vectors, atol=1e-5)
        assert torch.equal(told["text_mask"][:, :length], mask)

    def test_bad_options_are_named(self, checkpoint: Path, tmp_path: Path) -> None:
        domain = Generator.from_pretrained(checkpoint, "cpu").domain
        draws = Draws(0, torch.arange(1))
        for options, message in (
            (ImageOptions(prompt=" "), "the prompt is empty"),
            (ImageOptions(prompt="a", prompts=str(tmp_path)), "both --prompt and --prompts"),
            (ImageOptions(prompts=str(tmp_path / "none.txt")), "cannot read prompts from"),
            (ImageOptions(elevation=100.0), "elevation is 100.0; allowed: -90 to 90"),
        ):
            with pytest.raises(Gen3dError, match=message):
                domain.layout(options, draws)

    def test_unknown_words_and_long_prompts_are_told(self, checkpoint: Path) -> None:
        domain = Generator.from_pretrained(checkpoint, "cpu").domain
        with pytest.warns(UserWarning, match=r"never told knigth; close to: knight\. It knows \d+ words"):
            domain.texts(["a red knigth"])
        with pytest.warns(UserWarning, match="only the first 32 tokens"):
            domain.texts(["a red knight " * 20])

    def test_a_prior_is_what_the_generator_is(self, checkpoint: Path) -> None:
        generator = Generator.from_pretrained(checkpoint, "cpu")
        prior = GeneratorPrior(generator)
        batch = generator.domain.collate([generator.domain.dataset(TINY, "train")[0]], None)
        latents = prior.encode((batch.images + 1) / 2)
        tokens = generator.normalise(generator.codec.encode(batch).x)
        assert torch.allclose(generator.codec.to_tokens(latents), tokens, atol=1e-5)
        assert torch.allclose(generator.codec.from_tokens(tokens), latents, atol=1e-5)
        u = torch.tensor([0.4])
        alpha, sigma = prior.schedule(u)
        assert (float(alpha), float(sigma)) == pytest.approx((0.6, 0.4))
        told = prior.conditions(["a red knight"], batch.camera)
        want = generator.core(
            tokens, torch.tensor([0.6]), positions=generator.codec.positions[None], cond=told
        )
        # In bf16 where the processor has it: 8 bits.
        made = prior.denoise(latents, u, told)
        assert torch.allclose(made, generator.codec.from_tokens(want), atol=0.02)

    def test_colours_that_do_not_exist_become_the_nearest(self, checkpoint: Path) -> None:
        prior = GeneratorPrior(Generator.from_pretrained(checkpoint, "cpu"))
        latents = prior.encode(torch.tensor([1.7, -0.3, 0.4]).view(1, 3, 1, 1).expand(-1, -1, 32, 32))
        want = prior.encode(torch.tensor([1.0, 0.0, 0.4]).view(1, 3, 1, 1).expand(-1, -1, 32, 32))
        assert torch.allclose(prior.limited(latents), want, atol=1e-4)
        assert torch.allclose(prior.limited(want), want, atol=1e-4)

    def test_attention_of_words_is_read(self, checkpoint: Path) -> None:
        prior = GeneratorPrior(Generator.from_pretrained(checkpoint, "cpu"))
        told = prior.conditions(["a red knight"], None)
        maps = prior.attention(torch.randn(1, prior.channels, 4, 4), torch.tensor([0.3]), told)
        assert maps.shape == (1, len(prior.pieces("a red knight")), 4, 4)
        assert torch.allclose(maps.sum(1), torch.ones(1, 4, 4), atol=5e-3)
        assert prior.pieces("a red knight") == ["[CLS]", "a", "red", "knight", "[SEP]"]

    def test_weights_of_attention_are_those_that_are_used(self) -> None:
        torch.manual_seed(0)
        layer = TextAttention(16, 2, 8)
        torch.nn.init.normal_(layer.out.weight)
        x, told, mask = (
            torch.randn(2, 5, 16),
            torch.randn(2, 3, 8),
            torch.tensor([[True, True, False], [False] * 3]),
        )
        weights = layer.weights(x, told, mask)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 5))
        assert torch.all(weights[1, ..., 0] == 1)
        assert torch.all(weights[0, ..., [0, 3]] == 0)
        null = layer.null.expand(2, 1, -1)
        values = layer.kv(torch.cat([null, told], 1))[..., 16:].unflatten(-1, (2, 8)).transpose(1, 2)
        want = layer.out((weights @ values).transpose(1, 2).flatten(-2))
        assert torch.allclose(layer(x, told, mask), want, atol=1e-5)

    def test_only_generators_of_pictures_are_priors(self) -> None:
        config = run_config(load_yaml(ROOT / "configs" / "shape_debug.yaml"))
        with pytest.raises(Gen3dError, match="the prior is a checkpoint of domain 'shape'"):
            GeneratorPrior(Generator(config.generator()))

    def test_the_domain_is_in_the_table(self) -> None:
        assert Generator(debug().generator()).domain.__class__ is ImageDomain


def _square(picture: np.ndarray) -> torch.Tensor:
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    cut = picture[top : top + side, left : left + side]
    return torch.from_numpy(cut.copy()).permute(2, 0, 1)[None].float() / 255
