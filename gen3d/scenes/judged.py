"""What judges that nothing was optimised for say of scenes made from words."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d import judges
from gen3d.clip import Clip, direction, similarity
from gen3d.metrics import Metric, percentage

VIEWS, ELEVATION, WIDTH = 12, 20.0, 128
"""Pictures that are judged, evenly around, and the pixels along a side of them."""
CITED = "arXiv 2103.00020"


def prompt_metrics(pictures: Sequence[Tensor], prompt: str, clip: str = "") -> list[Metric]:
    """Whether pictures all around a scene show what its prompt says.

    Args:
        pictures: (H, W, 3) in [0, 1], evenly around, the first from the front; an even number of them.
        prompt: of the scene.
        clip: folder with weights of CLIP; none for none.
    """
    seen = torch.stack(list(pictures)).permute(0, 3, 1, 2)
    noun, colour = judges.words_of(prompt)
    count, about = len(pictures), f"of {len(pictures)} views around"
    found: list[Metric] = []
    of_class, of_colour = views_right(seen, noun, colour)
    if of_class is not None:
        found.append(percentage("class_views", of_class, count, f"recognised as {noun}, % {about}"))
    if of_colour is not None:
        found.append(percentage("colour_views", of_colour, count, f"that show {colour} most, % {about}"))
    alike = "mean cosine of features of opposite views: high where a face is on both sides"
    found.append(Metric("opposite_alike", opposite_alike(seen), alike, "lower"))
    if clip:
        model = Clip(clip)
        value = similarity(model.pictures(seen), model.texts([prompt])[0])
        found.append(
            Metric("clip_similarity", value, f"mean cosine of CLIP features {about}", "higher", CITED)
        )
    return found


def views_right(pictures: Tensor, noun: str | None, colour: str | None) -> tuple[int | None, int | None]:
    """How many of pictures (V, 3, H, W) in [0, 1] are recognised as a noun and show a colour most; None where
    there is no such word."""
    of_class = None if noun is None else int(judges.recognised(pictures, [noun] * len(pictures)).sum())
    if colour is None:
        return of_class, None
    shown = [judges.shows_colour(_bytes(picture.permute(1, 2, 0)), colour) for picture in pictures]
    return of_class, sum(shown)


def opposite_alike(pictures: Tensor) -> float:
    """Mean cosine of what a classifier sees in pictures (V, 3, H, W) from opposite sides, the one mirrored,
    about the mean over all of them."""
    features = judges.features(pictures)
    mirrored = judges.features(pictures.flip(3))
    half = len(pictures) // 2
    middle = features.mean(0)
    return float(F.cosine_similarity(features[:half] - middle, mirrored[half:] - middle, dim=1).mean())


def edit_metrics(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    inside: Sequence[Tensor],
    overlap: float,
    prompt: str,
    source: str = "",
    clip: str = "",
) -> list[Metric]:
    """How much changed outside of an edit, and whether what is new is there.

    Args:
        before, after: pictures (H, W, 3) in [0, 1], all around.
        inside: (H, W) bool, pixels that show the edited part before or after.
        overlap: intersection over union of the volumes outside of the edited part.
        prompt: after the edit.
        source: words for the scene before it; CLIP's direction needs them.
        clip: folder with weights of CLIP.
    """
    errors = [
        float((a - b).square()[~mask].mean()) if bool((~mask).any()) else 0.0
        for a, b, mask in zip(after, before, inside, strict=True)
    ]
    psnr = float(np.mean([-10 * np.log10(max(error, 1e-10)) for error in errors]))
    changed = [float((a - b).abs().mean()) for a, b in zip(after, before, strict=True)]
    found = [
        Metric("outside_psnr", psnr, "PSNR in dB of pixels that show no edited part", "higher"),
        Metric("outside_overlap", overlap, "IoU of the volumes outside of the edited part", "higher"),
        Metric("change", float(np.mean(changed)), "mean absolute change of all pixels, 0 to 1", "lower"),
    ]
    if not clip:
        return found
    model = Clip(clip)
    one, other = (model.pictures(torch.stack(list(v)).permute(0, 3, 1, 2)) for v in (before, after))
    words = model.texts([source or prompt, prompt])
    value = similarity(other, words[1])
    found.append(Metric("clip_similarity", value, "mean cosine of CLIP features", "higher", CITED))
    if source:
        cosine, product = direction(one, other, words[0], words[1])
        about = "of the changes of CLIP features of pictures and words"
        found.append(Metric("clip_direction", cosine, f"cosine {about}", "higher", "arXiv 2108.00946"))
        found.append(Metric("clip_direction_voxe", product, f"product {about}", "higher", "arXiv 2303.12048"))
    return found


def _bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().byte().numpy()
