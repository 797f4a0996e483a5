"""Diffusion models of pictures as priors for distillation: those that gen3d trains."""

from typing import Any

import torch
from torch import Tensor, nn

from gen3d.diffusion.distillation import ImagePrior
from gen3d.diffusion.samplers import ModelDenoiser
from gen3d.errors import Gen3dError
from gen3d.nn.precision import autocast, native_bf16
from gen3d.nn.text import pieces
from gen3d.types import Conditions


class GeneratorPrior:
    """A trained `gen3d.generator.Generator` of domain `image` as an `ImagePrior`. Its weights stay as they
    are.

    Args:
        generator: of pictures.

    Raises:
        Gen3dError: a generator of something else.
    """

    knows_cameras = before_white = in_colours = True
    guidance, attention_noise = 5.0, 0.75

    def __init__(self, generator: Any) -> None:
        if generator.config.domain != "image":
            raise Gen3dError(
                f"the prior is a checkpoint of domain {generator.config.domain!r}; one of 'image' is needed"
            )
        self.generator = generator.eval().requires_grad_(False)
        self.codec = generator.codec
        self.channels, self.size = self.codec.config.latent_channels, self.codec.config.size
        self.cells = self.codec.side * self.codec.config.patch

    def conditions(self, prompts: list[str], directions: Tensor | None) -> Conditions:
        text, mask = self.generator.domain.texts(prompts)
        if directions is None:
            directions = torch.full((len(prompts), 3), torch.nan)
        return {"camera": directions, "text": text, "text_mask": mask}

    def encode(self, pictures: Tensor) -> Tensor:
        latents = self.codec.to_latents(2 * pictures - 1)
        return self._grid(self.generator.normalise(self.codec.to_tokens(latents)))

    def decode(self, latents: Tensor) -> Tensor:
        tokens = self.generator.denormalise(self.codec.to_tokens(latents))
        return (self.codec.to_images(self._grid(tokens)).clamp(-1, 1) + 1) / 2

    def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
        path = self.generator.config.diffusion.path
        return path.alpha(1 - u), path.sigma(1 - u)

    def denoise(self, noisy: Tensor, u: Tensor, conditions: Conditions) -> Tensor:
        tokens = self.codec.to_tokens(noisy)
        with autocast(tokens.device, native_bf16(tokens.device)):
            clean = self._denoiser(len(noisy), conditions)(tokens, 1 - u)
        return self._grid(clean.float())

    def limited(self, clean: Tensor) -> Tensor:
        return self.encode(self.decode(clean))

    def pieces(self, prompt: str) -> list[str]:
        """The tokens of a prompt, one for each row of its vectors."""
        return pieces(prompt)

    def attention(self, noisy: Tensor, u: Tensor, conditions: Conditions) -> Tensor:
        """(B, L, s, s): how much each cell looks at each of the L tokens of its text, the mean over blocks
        and heads; what looks at no text (the null token) is left out, so that sums are below 1."""
        found: list[Tensor] = []
        blocks = self.generator.core.blocks
        hooks = [block.text.register_forward_hook(_reader(found)) for block in blocks]
        try:
            self.denoise(noisy, u, conditions)
        finally:
            for hook in hooks:
                hook.remove()
        maps = torch.stack(found).float().mean((0, 2))[..., 1:]
        side, patch = self.codec.side, self.codec.config.patch
        grid = maps.transpose(1, 2).unflatten(2, (side, side))
        return grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)

    def _denoiser(self, count: int, conditions: Conditions) -> ModelDenoiser:
        diffusion = self.generator.config.diffusion
        positions = self.codec.positions.expand(count, -1, -1)
        return ModelDenoiser(
            self.generator.core, diffusion.path, diffusion.prediction, None, positions, conditions
        )

    def _grid(self, tokens: Tensor) -> Tensor:
        return self.codec.from_tokens(tokens)


def as_prior(source: Any) -> ImagePrior:
    """The prior that a generator is; a prior stays what it is.

    Raises:
        Gen3dError: neither.
    """
    if hasattr(source, "denoise") and hasattr(source, "conditions"):
        return source
    if not hasattr(source, "core"):
        raise Gen3dError("there is no prior of pictures; prior.checkpoint names one")
    return GeneratorPrior(source)


def _reader(found: list[Tensor]) -> Any:
    def read(module: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        found.append(module.weights(*inputs))  # type: ignore[operator]

    return read
