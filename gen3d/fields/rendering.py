"""Volume rendering: a field seen along rays (NeRF, arXiv 2003.08934, equation 3).

Steps are of one length, or shorter where most is seen. Only steps that an occupancy grid does not call empty
are asked for their density, and only those that are seen at all for their colour.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located
from gen3d.fields.cameras import Cameras, Rays
from gen3d.fields.occupancy import Occupancy

FAINT = 0.1
"""Opacity below which a ray's colour need not be exact."""


@dataclass(frozen=True)
class Rendering:
    """What rays see.

    Attributes:
        colour: (R, C), with the background behind.
        opacity: (R,) in [0, 1].
        depth: (R,), mean distance of what is seen; 0 where nothing is.
        asked: how many points were asked for their density.
        normals: (R, 3), of unit length, of what is seen, or zero where nothing is; None where not asked for.
    """

    colour: Tensor
    opacity: Tensor
    depth: Tensor
    asked: int
    normals: Tensor | None = None


def render(
    field: Field,
    rays: Rays,
    *,
    length: float,
    background: Tensor | None = None,
    occupancy: Occupancy | None = None,
    generator: torch.Generator | None = None,
    jitter: bool = False,
    finer: int = 0,
    least_weight: float = 1e-3,
    normals: bool = False,
) -> Rendering:
    """Colour, opacity and depth along rays.

    Args:
        field: what is seen.
        rays: R of them.
        length: of a step, in the unit of the scene.
        background: (C,) or (R, C); black if None.
        occupancy: where to look; the whole box if None.
        generator: of the jitter.
        jitter: move the steps of every ray by a random part of a step, as training does.
        finer: how many steps a ray gains where most is seen (importance sampling, section 5.2): a first look,
            without gradients, weighs the steps, and each is split in proportion. Splitting rather than
            drawing places keeps the length that every step stands for.
        least_weight: steps that add less than this share of a ray's opacity are given no colour; where it is
            below FAINT, less than this share of FAINT.
        normals: whether to find them, which asks for six more densities at every step that is seen.

    Raises:
        Gen3dError: a step length that is not positive.
    """
    if not length > 0:
        raise Gen3dError(f"length of a step is {length}; it must be above 0")
    ray, depth = _steps(field.box, rays, length, jitter, generator)
    points = rays.origins[ray] + depth[:, None] * rays.directions[ray]
    times = None if rays.times is None else rays.times[ray]
    if occupancy is not None:
        kept = occupancy.contains(points, times).nonzero()[:, 0]
        ray, depth, points = ray[kept], depth[kept], points[kept]
        times = None if times is None else times[kept]
    if finer:
        ray, depth, lengths = _split(field, rays, ray, depth, length, finer)
        points = rays.origins[ray] + depth[:, None] * rays.directions[ray]
        times = None if rays.times is None else rays.times[ray]
    else:
        lengths = depth.new_tensor(length)
    density, located = field.density(points, times)
    weights = _weights(density * lengths, ray, len(rays))
    opacity = weights.new_zeros(len(rays)).index_add(0, ray, weights)
    least = least_weight * opacity.detach().clamp(min=FAINT)
    shown = (weights.detach() > least[ray]).nonzero()[:, 0]
    of = ray[shown]
    some: Located = tuple(tensor[shown] for tensor in located)
    colour = field.colour(some, rays.directions[of], None if times is None else times[shown])
    # What too faint steps would have added is shared among those that have a colour.
    visible = weights.new_zeros(len(rays)).index_add(0, of, weights[shown])
    scale = opacity / visible.clamp(min=1e-6)
    seen = weights.new_zeros(len(rays), field.channels).index_add(0, of, weights[shown, None] * colour)
    seen = seen * torch.where(visible > 0, scale, torch.zeros_like(scale))[:, None]
    if background is not None:
        seen = seen + (1 - opacity)[:, None] * background
    mean = weights.new_zeros(len(rays)).index_add(0, ray, weights * depth) / opacity.clamp(min=1e-6)
    upright = None
    if normals:
        slopes = _slopes(field, points[shown], None if times is None else times[shown], length)
        away = torch.nn.functional.normalize(-slopes, dim=1)
        summed = weights.new_zeros(len(rays), 3).index_add(0, of, weights[shown, None] * away)
        upright = torch.nn.functional.normalize(summed, dim=1)
    return Rendering(seen, opacity, mean, len(points), upright)


@torch.no_grad()
def render_image(
    field: Field,
    cameras: Cameras,
    view: int = 0,
    *,
    length: float,
    background: Tensor | None = None,
    occupancy: Occupancy | None = None,
    chunk: int = 8192,
    normals: bool = False,
) -> Rendering:
    """One whole image, its parts shaped (height, width, ...).

    Memory grows with `chunk`, the rays that are rendered at once: about 100 bytes a step of each of them
    beside what the field needs. Where memory runs out, the chunk is halved, with a warning.
    """
    rays = cameras.image_rays(view)
    chunk = min(chunk, len(rays))
    parts: list[Rendering] = []
    start = 0
    while start < len(rays):
        try:
            some = rays[slice(start, start + chunk)]
            parts.append(
                render(
                    field,
                    some,
                    length=length,
                    background=background,
                    occupancy=occupancy,
                    normals=normals,
                )
            )
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if chunk == 1 or "memory" not in f"{type(error).__name__} {error}".lower():
                raise
            chunk = max(1, chunk // 2)
            warnings.warn(f"out of memory; rendering {chunk} rays at once from here on", stacklevel=1)
            continue
        start += chunk
    shape = (cameras.height, cameras.width)
    return Rendering(
        torch.cat([part.colour for part in parts]).view(*shape, -1),
        torch.cat([part.opacity for part in parts]).view(shape),
        torch.cat([part.depth for part in parts]).view(shape),
        sum(part.asked for part in parts),
        torch.cat([part.normals for part in parts if part.normals is not None]).view(*shape, 3)
        if normals
        else None,
    )


def _slopes(field: Field, points: Tensor, times: Tensor | None, reach: float) -> Tensor:
    """Slopes (P, 3) of the density at points (P, 3), by central differences."""
    steps = reach * torch.eye(3, device=points.device)
    differences = [field.density(points + s, times)[0] - field.density(points - s, times)[0] for s in steps]
    return torch.stack(differences, 1) / (2 * reach)


def _steps(
    box: Tensor, rays: Rays, length: float, jitter: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The middles of the steps inside the box: number of the ray (S,) and distance (S,), ray by ray."""
    safe = torch.where(rays.directions.abs() < 1e-9, torch.full_like(rays.directions, 1e-9), rays.directions)
    to_low, to_high = (box[0] - rays.origins) / safe, (box[1] - rays.origins) / safe
    near = torch.minimum(to_low, to_high).amax(1).clamp(min=0)
    far = torch.maximum(to_low, to_high).amin(1)
    count = ((far - near) / length).ceil().clamp(min=0).long()
    ray = torch.repeat_interleave(torch.arange(len(rays), device=near.device), count)
    first = count.cumsum(0) - count
    step = torch.arange(len(ray), device=near.device) - first[ray]
    shift = torch.full((len(rays),), 0.5, device=near.device)
    if jitter:
        shift = torch.rand(len(rays), generator=generator, device=near.device)
    depth = near[ray] + (step + shift[ray]) * length
    inside = (depth < far[ray]).nonzero()[:, 0]
    return ray[inside], depth[inside]


@torch.no_grad()
def _split(
    field: Field, rays: Rays, ray: Tensor, depth: Tensor, length: float, finer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps divided into equal parts, the more the more they add to their ray.

    Args:
        ray, depth: (S,), of the steps.
        finer: how many parts a ray gains, but for rounding.

    Returns:
        The ray (S',) and the middle (S',) of each part, ray by ray from the front, and its length (S',).
    """
    times = None if rays.times is None else rays.times[ray]
    density = field.density(rays.origins[ray] + depth[:, None] * rays.directions[ray], times)[0]
    weights = _weights(density * length, ray, len(rays))
    opacity = weights.new_zeros(len(rays)).index_add(0, ray, weights)
    # Neighbours share what they add: a surface may lie just before the middle of the step that shows it.
    same = (ray[1:] == ray[:-1]).to(weights)
    smooth = 0.5 * weights
    smooth[1:] += 0.25 * same * weights[:-1]
    smooth[:-1] += 0.25 * same * weights[1:]
    parts = 1 + (finer * smooth / opacity.clamp(min=FAINT)[ray]).round().long()
    step = torch.repeat_interleave(torch.arange(len(ray), device=ray.device), parts)
    first = parts.cumsum(0) - parts
    place = torch.arange(len(step), device=ray.device) - first[step]
    lengths = length / parts[step]
    return ray[step], depth[step] - 0.5 * length + (place + 0.5) * lengths, lengths


def _weights(thickness: Tensor, ray: Tensor, count: int) -> Tensor:
    """What each step adds to its ray: what reaches it times what it holds back.

    Args:
        thickness: (S,), density times length.
        ray: (S,), ascending.
        count: number of rays.
    """
    number = torch.bincount(ray, minlength=count)
    first = number.cumsum(0) - number
    place = torch.arange(len(ray), device=ray.device) - first[ray]
    most = int(number.max()) if len(ray) else 0
    # Laid out ray by ray, as a running sum over all steps would lose its digits.
    laid = thickness.new_zeros(count, most).index_put((ray, place), thickness)
    before = (laid.cumsum(1) - laid)[ray, place]
    return torch.exp(-before) * -torch.expm1(-thickness)
