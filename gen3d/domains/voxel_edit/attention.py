"""Where the words of an edit are in 3D: the prior's cross-attention, fitted to a grid (Vox-E, section
3.3)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.errors import Gen3dError
from gen3d.scenes.distil import Distilled
from gen3d.scenes.viewpoints import random_view

MARKS = ("[cls]", "[sep]", "[pad]", "<|startoftext|>", "<|endoftext|>", "!", ",", ".")
"""Tokens that stand for no word."""
BLUR = (0.25, 0.5, 0.25)
"""Maps of attention are smoothed so along both axes: nearly the published kernel of 3 cells, deviation
0.5."""
VIEWS_A_STEP = 4
SEEN = 0.5
"""Opacity from which a cell shows the object."""


class Attention:
    """Maps of attention of some pictures, read once, and what a grid of attention lacks of them.

    Args:
        fit: the edit; its shape must not change any more.
        words: those that name what is new.
        views: pictures to read.
        noise: noise level at which they are read.

    Raises:
        Gen3dError: a word that is no token of the prompt, or a prior whose attention cannot be read.
    """

    def __init__(self, fit: Distilled, words: Sequence[str], views: int, noise: float) -> None:
        self.fit = fit
        prior: Any = fit.prior
        if not hasattr(prior, "attention"):
            raise Gen3dError(
                f"the attention of a {type(prior).__name__} cannot be read; leave edit_words out"
            )
        edit, rest = tokens_of(prior.pieces(fit.prompt), words)
        random = np.random.default_rng(fit.config.seed)
        self.places = torch.tensor([random_view(random) for _ in range(views)], dtype=torch.float32)
        maps, masks = [], []
        for azimuth, elevation in self.places:
            edited, object_, seen = self._read(azimuth[None], elevation[None], noise, edit, rest)
            maps.append(torch.cat([edited, object_]))
            masks.append(seen)
        found = _blurred(torch.stack(maps))
        # Both maps in the same unit: 1 for the most that any cell of any picture looks at the words.
        self.maps = found / found.amax((0, 2, 3), keepdim=True).clamp(min=1e-9)
        self.masks = torch.stack(masks)

    @torch.no_grad()
    def _read(
        self, azimuth: Tensor, elevation: Tensor, noise: float, edit: list[int], rest: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (1, s, s) of the edit and of the object, and where something is seen, of one picture."""
        fit, prior = self.fit, self.fit.prior
        fit.field.reading.fill_(False)  # type: ignore[operator, union-attr]
        size = fit.config.rgb_size
        seen = fit.render(azimuth, elevation, size, torch.ones(3))
        picture = seen.colour.view(1, size, size, 3).permute(0, 3, 1, 2)
        picture = F.interpolate(picture, 2 * [prior.size], mode="bilinear", antialias=True)
        latents = prior.encode(picture)
        told, _ = fit.conditions(azimuth, elevation, tell_view=False)
        u = torch.tensor([noise])
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in prior.schedule(u))
        drawn = torch.randn(latents.shape, generator=fit.generator)
        maps = prior.attention(alpha * latents + sigma * drawn, u, told)  # type: ignore[attr-defined]
        fit.field.reading.fill_(True)  # type: ignore[operator, union-attr]
        opacity = F.adaptive_avg_pool2d(seen.opacity.view(1, 1, size, size), prior.cells)[0]
        return maps[:, edit].amax(1), maps[:, rest].amax(1), opacity > SEEN

    def loss(self) -> Tensor:
        """Mean absolute difference between what the grid shows and the maps, where something is seen."""
        fit, side = self.fit, self.fit.prior.cells
        chosen = torch.randint(len(self.places), (VIEWS_A_STEP,), generator=fit.generator)
        azimuth, elevation = self.places[chosen].unbind(1)
        seen = fit.render(azimuth, elevation, side, torch.zeros(2))
        made = (
            (seen.colour / seen.opacity.clamp(min=1e-3)[:, None]).view(-1, side, side, 2).permute(0, 3, 1, 2)
        )
        mask = self.masks[chosen].float()
        return ((made - self.maps[chosen]).abs() * mask).sum() / (2 * mask.sum()).clamp(min=1)


def tokens_of(pieces: Sequence[str], words: Sequence[str]) -> tuple[list[int], list[int]]:
    """Numbers of the tokens of the words of an edit, and of all other words.

    Raises:
        Gen3dError: a word that is not there, or no word but these.
    """
    plain = [piece.replace("</w>", "").lower() for piece in pieces]
    edit: list[int] = []
    for word in words:
        found = _spelt(plain, word.lower())
        if not found:
            shown = " ".join(p for p in plain if p not in MARKS)
            raise Gen3dError(f"edit word {word!r} is not in the prompt; its tokens are: {shown}")
        edit += found
    ignored = {*MARKS, "a", "an", "the", "with", "on", "it", "of", "and", "in", "to"}
    rest = [n for n, piece in enumerate(plain) if n not in edit and piece not in ignored and piece]
    if not rest:
        raise Gen3dError("no word of the prompt names the object; give a prompt with more than edit words")
    return edit, rest


def _spelt(pieces: Sequence[str], word: str) -> list[int]:
    """Numbers of the pieces that spell a word, one after the other; empty if none do."""
    for first in range(len(pieces)):
        text, last = "", first
        while last < len(pieces) and len(text) < len(word):
            text += pieces[last].removeprefix("##")
            last += 1
        if text == word:
            return list(range(first, last))
    return []


def _blurred(maps: Tensor) -> Tensor:
    """(V, 2, s, s)."""
    kernel = torch.tensor(BLUR)
    flat = F.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(flat, (kernel[:, None] * kernel)[None, None]).view_as(maps)
