"""Prompts, and the words that a model was told."""

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.errors import Gen3dError
from gen3d.nn import text

ROOM = 8192
"""Bytes of the words that a checkpoint knows."""


@dataclass(frozen=True)
class Captions:
    """Captions of prepared data, embedded.

    Attributes:
        captions: (K,) different ones.
        caption: (N,) which of them an item has.
        vectors: (T, E) float16, those of their tokens one after the other.
        ends: (K,) where those of each end.
    """

    captions: np.ndarray
    caption: np.ndarray
    vectors: np.ndarray
    ends: np.ndarray

    NAMES = ("captions", "caption", "text", "lengths")
    """Of the arrays that they are made of."""

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Captions":
        """From arrays as `embedded` makes them."""
        captions, caption, vectors, lengths = (arrays[name] for name in cls.NAMES)
        return cls(captions, caption, vectors, lengths.cumsum())

    def __getitem__(self, index: int) -> tuple[str, np.ndarray]:
        """The caption of an item, and the vectors (L, E) of its tokens."""
        number = int(self.caption[index])
        start = int(self.ends[number - 1]) if number else 0
        return str(self.captions[number]), self.vectors[start : int(self.ends[number])]

    def words(self) -> list[str]:
        """Every word, the most frequent first."""
        counts: dict[str, int] = {}
        often = np.bincount(self.caption, minlength=len(self.captions))
        for caption, times in zip(self.captions, often, strict=True):
            for word in set(str(caption).replace(",", " ").split()):
                counts[word] = counts.get(word, 0) + int(times)
        return sorted(counts, key=lambda word: (-counts[word], word))


def embedded(captions: Sequence[str], progress: bool = False) -> dict[str, np.ndarray]:
    """Arrays of which `Captions` are made, of the captions of all items.

    Raises:
        MissingExtra: the extra `text` is not installed.
    """
    different, index = np.unique(np.array(captions), return_inverse=True)
    vectors, lengths = text.packed([str(c) for c in different], progress=progress)
    return {"captions": different, "caption": index.reshape(-1), "text": vectors, "lengths": lengths}


def padded(vectors: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Vectors (B, L, E) of texts (L of each, E), and the mask (B, L) of those that are real."""
    longest = max(len(own) for own in vectors)
    side_by_side = torch.zeros(len(vectors), longest, vectors[0].shape[1])
    mask = torch.zeros(len(vectors), longest, dtype=torch.bool)
    for row, own in enumerate(vectors):
        side_by_side[row, : len(own)] = torch.from_numpy(own.astype(np.float32))
        mask[row, : len(own)] = True
    return side_by_side, mask


def stored(words: Sequence[str]) -> Tensor:
    """(ROOM,) uint8: words in ASCII, as many as there is room for."""
    joined = "\n".join(words).encode("ascii", "ignore")[:ROOM]
    if len(joined) == ROOM:
        joined = joined.rpartition(b"\n")[0]
    found = torch.zeros(ROOM, dtype=torch.uint8)
    found[: len(joined)] = torch.tensor(list(joined), dtype=torch.uint8)
    return found


def known(words: Tensor) -> list[str]:
    """The words that were stored; one empty one for none."""
    return bytes(words.tolist()).rstrip(b"\0").decode("ascii").split("\n")


def texts(prompts: Sequence[str], told: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Vectors (B, L, E) and mask (B, L) of prompts; an empty one is none. Warns of what was never `told`.

    Raises:
        MissingExtra: the extra `text` is not installed.
    """
    asked = sorted({prompt for prompt in prompts if prompt})
    if not asked:
        none = torch.zeros(len(prompts), 1, text.WIDTH)
        return none, torch.zeros(len(prompts), 1, dtype=torch.bool)
    for prompt in asked:
        _warn(prompt, told)
    vectors, real = text.embed(asked)
    index = torch.tensor([asked.index(prompt) if prompt else 0 for prompt in prompts])
    given = torch.tensor([bool(prompt) for prompt in prompts])
    return vectors[index], real[index] & given[:, None]


def prompts_of(options: Any, index: Tensor) -> list[str]:
    """A prompt for each of the samples (B,), "" for none, of options with `prompt` and `prompts`.

    Raises:
        Gen3dError: both are given, the prompt is empty, or the file of prompts cannot be used.
    """
    if options.prompt is not None and options.prompts is not None:
        raise Gen3dError("both --prompt and --prompts are given; allowed: one of them")
    if options.prompt is not None and not options.prompt.strip():
        raise Gen3dError("the prompt is empty; say what should be seen, or leave --prompt out")
    if options.prompts is None:
        return [options.prompt or ""] * len(index)
    lines = read_prompts(options.prompts)
    return [lines[int(number) % len(lines)] for number in index]


def read_prompts(path: str) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        Gen3dError: it cannot be read, or holds none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Gen3dError(f"cannot read prompts from {path}: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise Gen3dError(f"{path} holds no prompt")
    return found


def _warn(prompt: str, told: Sequence[str]) -> None:
    """Tell of words that no caption had, and of texts that are cut."""
    if text.length_of(prompt) > text.LONGEST:
        warnings.warn(f"only the first {text.LONGEST} tokens of the prompt are read", stacklevel=2)
    asked = [word.strip(".!?;:'\"").lower() for word in prompt.replace(",", " ").split()]
    unknown = list(dict.fromkeys(word for word in asked if word and word not in told))
    if list(told) == [""] or not unknown:
        return
    close = sorted({near for word in unknown for near in difflib.get_close_matches(word, told, 3)})
    hint = f"; close to: {', '.join(close)}" if close else ""
    some = ", ".join(word for word in told[:60] if len(word) > 2)
    warnings.warn(
        f"the prior was never told {', '.join(unknown)}{hint}. It knows {len(told)} words, most often: "
        f"{some}",
        stacklevel=2,
    )
