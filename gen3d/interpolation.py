"""From one object to another: the noise of both ends, and what lies between."""

import math
from typing import Any

import torch
from torch import Tensor

from gen3d.diffusion.objective import optimal_coupling
from gen3d.diffusion.samplers import invert, sampling_settings, schedule
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator


@torch.no_grad()
def interpolate(
    generator: Generator,
    first: Any,
    last: Any,
    frames: int = 12,
    *,
    seed: int = 0,
    steps: int | None = None,
    sampler: str | None = None,
) -> list[Any]:
    """Objects between two given ones.

    Both are carried to the noise that they would be generated from (the ODE backwards), and what is generated
    from the points of the great circle between the two is returned (DDIM, arXiv 2010.02502, section 5.3).
    Tokens without positions are a set: those of the two ends are paired by optimal assignment.

    Args:
        generator: of the domain that both ends belong to.
        first, last: native objects with equally many tokens.
        frames: how many objects, both ends included; these are what the model makes of the ends.
        seed: of samplers that draw noise.
        steps, sampler: override the checkpoint's defaults.

    Returns:
        `frames` native objects; None where the domain could not make one.

    Raises:
        Gen3dError: fewer than 2 frames, or ends of different sizes.
    """
    if frames < 2:
        raise Gen3dError(f"frames is {frames}; at least 2, the ends")
    settings = sampling_settings(generator.config.sampling, steps, 1.0, sampler)
    domain, path = generator.domain, generator.config.diffusion.path
    batch = domain.collate(domain.items([first, last]), None).to(generator.device)
    tokens = generator.codec.encode(batch)
    counts = tokens.mask.sum(1).tolist()
    if counts[0] != counts[1]:
        raise Gen3dError(f"the ends have {counts[0]} and {counts[1]} tokens; equally many are needed")
    layout = domain.layout_of(batch, tokens).to(generator.device)
    clean = tokens.with_values(generator.normalise(tokens.x)).x
    if layout.positions is None:
        clean = torch.stack([clean[0], optimal_coupling(clean[1:], clean[:1], tokens.mask[:1])[0]])
    times = schedule(settings.steps, settings.shift, settings.spacing)
    # At the data itself the velocity is singular; Heun's second evaluation needs no finer steps than these.
    noise = invert(generator.denoiser(layout, layout.conditions, settings), clean, path, times)
    between = _great_circle(noise[0], noise[1], torch.linspace(0, 1, frames, device=noise.device))
    # Every frame is laid out, and told of itself, as the nearer end is.
    rows = (torch.arange(frames, device=noise.device) * 2 >= frames).long()
    framed = layout.select(rows)
    draws = Draws(seed, torch.arange(frames, device=noise.device))
    number = torch.arange(frames, device=noise.device)
    made = generator.run_sampler(between, times, framed, number, draws, settings, None)
    return generator.finish(made, framed, number)


def _great_circle(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Points (F, N, C) of the arc from a to b, both (N, C), at the shares (F,); lengths go along evenly."""
    cosine = (a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos()
    u = share[:, None, None]
    if float(angle) < 1e-3 or float(angle) > math.pi - 1e-3:
        return (1 - u) * a + u * b
    return (((1 - u) * angle).sin() * a + (u * angle).sin() * b) / angle.sin()
