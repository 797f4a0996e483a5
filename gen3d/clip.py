"""CLIP as a judge, where its weights are at hand: they are read from a folder and never downloaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.errors import Gen3dError, require


class Clip:
    """A CLIP model of transformers (arXiv 2103.00020).

    Args:
        folder: with its weights, its tokenizer and its image processor.

    Raises:
        Gen3dError: there is none.
        MissingExtra: transformers is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        transformers = require("transformers", "text")
        if not Path(folder).is_dir():
            raise Gen3dError(f"there is no folder {folder} with weights of CLIP; they are never downloaded")
        try:
            self.model: Any = transformers.CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self.tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            # transformers raises about anything for what is missing, damaged or of another kind.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise Gen3dError(f"{folder} holds no CLIP: {reason[0][:200]}") from error
        self.side = self.model.config.vision_config.image_size

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> Tensor:
        """Unit features (B, D) of pictures (B, 3, H, W) in [0, 1]."""
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
        deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
        sized = F.interpolate(pictures, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        seen = self.model.vision_model(pixel_values=(sized - mean) / deviation).pooler_output
        return F.normalize(self.model.visual_projection(seen), dim=1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit features (B, D) of prompts."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        told = self.model.text_model(**tokens).pooler_output
        return F.normalize(self.model.text_projection(told), dim=1)


def similarity(pictures: Tensor, prompt: Tensor) -> float:
    """Mean cosine of unit features of pictures (V, D) and of a prompt (D,)."""
    return float((pictures @ prompt).mean())


def direction(before: Tensor, after: Tensor, source: Tensor, target: Tensor) -> tuple[float, float]:
    """How well pictures change as words do (arXiv 2108.00946): the mean cosine of the differences of
    features, and Vox-E's form, the mean product of differences that are not scaled to unit length.

    Args:
        before, after: unit features (V, D) of pictures.
        source, target: unit features (D,) of words for the one and the other.
    """
    seen, told = after - before, target - source
    return float(F.cosine_similarity(seen, told[None], dim=1).mean()), float((seen @ told).mean())


def r_precision(pictures: Tensor, prompts: Tensor) -> float:
    """Share of pictures (P, V, D) of prompts (P, D) whose own prompt is the most similar of all (arXiv
    2112.01455)."""
    best = torch.einsum("pvd,qd->pvq", pictures, prompts).argmax(2)
    return float((best == torch.arange(len(prompts))[:, None]).float().mean())
