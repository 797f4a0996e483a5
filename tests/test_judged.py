"""Judges of what words made: CLIP from a folder, prompts against pictures, and how much an edit changed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gen3d.clip import Clip, direction, r_precision, similarity
from gen3d.domains.images.dataset import open_dataset
from gen3d.domains.images.metrics import prompt_metrics as of_pictures
from gen3d.errors import Gen3dError
from gen3d.evaluate import evaluate
from gen3d.judges import GROUPS, words_of
from gen3d.scenes.judged import edit_metrics, opposite_alike, prompt_metrics

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the real classes, tiny and untrained."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(words), "max_position_embeddings": 77},
        vision_config={**small, "image_size": 30, "patch_size": 10},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


class TestClip:
    def test_features_are_those_of_transformers(self, clip: Path) -> None:
        from transformers import CLIPModel

        model, known = Clip(clip), CLIPModel.from_pretrained(clip).eval()
        pictures = torch.rand(2, 3, 30, 30)
        mean, deviation = (
            torch.tensor(v).view(3, 1, 1)
            for v in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
        )
        tokens = model.tokenizer(["a cat", "dog"], padding=True, return_tensors="pt")
        with torch.no_grad():
            both = known(pixel_values=(pictures - mean) / deviation, **tokens)
        assert torch.allclose(model.pictures(pictures), both.image_embeds, atol=1e-5)
        assert torch.allclose(model.texts(["a cat", "dog"]), both.text_embeds, atol=1e-5)

    def test_numbers_by_hand(self) -> None:
        axes = torch.eye(3)
        assert similarity(axes[:2], axes[0]) == pytest.approx(0.5)
        cosine, product = direction(axes[[0]], axes[[1]], axes[0], axes[1])
        assert (cosine, product) == pytest.approx((1.0, 2.0))
        # Two of three pictures of the first prompt, and the one of the second's three.
        pictures = torch.stack([axes[[0, 0, 1]], axes[[0, 2, 1]]])
        assert r_precision(pictures, axes[:2]) == pytest.approx(3 / 6)

    def test_nothing_is_downloaded(self, tmp_path: Path) -> None:
        with pytest.raises(Gen3dError, match="they are never downloaded"):
            Clip("openai/clip-vit-base-patch32")
        with pytest.raises(Gen3dError, match="holds no CLIP"):
            Clip(tmp_path)


class TestPrompts:
    @pytest.mark.parametrize(
        ("prompt", "noun", "colour"),
        [
            ("a red armchair, side view", "armchair", "red"),
            ("a washing machine on a blue table", "washing machine", "blue"),
            ("a green plant on a wooden table", "plant", "green"),
            ("a gnome", None, None),
            ("a carpet", None, None),
        ],
    )
    def test_words_that_judges_know(self, prompt: str, noun: str | None, colour: str | None) -> None:
        assert words_of(prompt) == (noun, colour)

    def test_classes_of_imagenet_are_numbers_that_exist(self) -> None:
        assert all(0 <= number < 1000 for group in GROUPS.values() for number in group)

    def test_pictures_are_held_to_their_prompts(self) -> None:
        data = open_dataset(ROOT / "data" / "tiny" / "views.npz", "train", 4, 32)
        red = np.full((32, 32, 3), 255, np.uint8)
        red[8:24, 8:24] = (200, 25, 30)
        pictures = [Image.fromarray(red), None]
        found = {m.name: m for m in of_pictures(pictures, ["a red knight"] * 2, data)}
        assert found["colour_right"].value == 50  # the failed one counts
        assert found["class_right"].value == 0
        with pytest.raises(Gen3dError, match="no prompt names a class or a colour"):
            of_pictures(pictures, ["a gnome"] * 2, data)

    def test_a_scene_is_held_to_its_prompt(self, clip: Path) -> None:
        picture = torch.ones(40, 40, 3)
        picture[10:30, 10:30] = torch.tensor([0.1, 0.2, 0.8])
        found = {m.name: m.value for m in prompt_metrics([picture] * 4, "a blue car", str(clip))}
        assert found["colour_views"] == 100
        assert found["class_views"] == 0
        assert -1 <= found["clip_similarity"] <= 1  # type: ignore[operator]

    def test_the_same_face_on_both_sides_is_told_from_two(self) -> None:
        """Four views of a thing with a photograph in front and behind, and of one with two photographs."""
        from skimage import data

        cat, cup = (
            torch.from_numpy(np.asarray(Image.fromarray(p).resize((64, 64)))).permute(2, 0, 1) / 255
            for p in (data.chelsea(), data.coffee())
        )
        side = torch.ones(3, 64, 64)
        janus = opposite_alike(torch.stack([cat, side, cat.flip(2), side]))
        honest = opposite_alike(torch.stack([cat, side, cup, side]))
        assert janus > honest + 0.2


class TestEdits:
    def test_what_changed_inside_does_not_count(self) -> None:
        before = torch.ones(20, 20, 3)
        after, mask = before.clone(), torch.zeros(20, 20, dtype=torch.bool)
        after[:10] = 0.0
        mask[:10] = True
        found = {m.name: m.value for m in edit_metrics([before], [after], [mask], 0.9, "a hat")}
        assert found == {
            "outside_psnr": pytest.approx(100),
            "outside_overlap": 0.9,
            "change": pytest.approx(0.5),
        }
        after[10:] = 0.9
        found = {m.name: m.value for m in edit_metrics([before], [after], [mask], 0.9, "a hat")}
        assert found["outside_psnr"] == pytest.approx(20, abs=1e-3)

    def test_directions_need_words_for_both(self, clip: Path) -> None:
        pictures = [torch.rand(30, 30, 3), torch.rand(30, 30, 3)]
        mask = torch.zeros(30, 30, dtype=torch.bool)
        names = [
            {
                m.name
                for m in edit_metrics(pictures[:1], pictures[1:], [mask], 1.0, "a cat", source, str(clip))
            }
            for source in ("", "a dog")
        ]
        assert names[1] - names[0] == {"clip_direction", "clip_direction_voxe"}


def test_pictures_are_evaluated_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    """Pictures beside their contact sheet, which is none of them."""
    data = np.load(ROOT / "data" / "tiny" / "views.npz")
    for number, image in enumerate(data["images"]):
        Image.fromarray(image).save(tmp_path / f"image_{number}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "image.preview.png")
    report = evaluate(
        "image",
        tmp_path,
        ROOT / "data" / "tiny" / "views.npz",
        checks={"prompts": "a red knight"},
        progress=False,
    )
    assert report["n_samples"] == len(data["images"])
    assert report["metrics"]["1nna"]["value"] == 0
    assert {"class_right", "colour_right", "colour_ceiling"} <= set(report["metrics"])
