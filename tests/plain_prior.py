"""A prior of pictures of which everything is known."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.types import Conditions

COLOURS = {"red": (0.9, 0.1, 0.1), "blue": (0.1, 0.2, 0.9)}


class PlainPrior:
    """A prior that believes in a disc of the prompt's colour before white, and nothing else.

    Its latents are the pictures, made smaller, from -1 to 1; the truth about it is known.
    """

    channels, cells, size = 3, 16, 32
    knows_cameras, before_white, in_colours = False, True, False
    guidance, attention_noise = 1.0, 0.5

    def conditions(self, prompts: list[str], directions: Tensor | None) -> Conditions:
        rows = [next((c for name, c in COLOURS.items() if name in p), (1.0, 1.0, 1.0)) for p in prompts]
        return {"colour": torch.tensor(rows)}

    def encode(self, pictures: Tensor) -> Tensor:
        return 2 * F.adaptive_avg_pool2d(pictures, self.cells) - 1

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate((latents + 1) / 2, scale_factor=2)

    def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - u, u

    def limited(self, clean: Tensor) -> Tensor:
        return clean

    def disc(self, colour: Tensor) -> Tensor:
        axis = (torch.arange(self.cells) + 0.5) * 2 / self.cells - 1
        radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
        share = ((0.6 - radius) * 8).clamp(0, 1)
        return 2 * (1 - share + share * colour.view(-1, 3, 1, 1)) - 1

    def denoise(self, noisy: Tensor, u: Tensor, conditions: Conditions) -> Tensor:
        return self.disc(conditions["colour"])
