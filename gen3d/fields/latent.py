"""Fields whose colours are latents of a prior of pictures, and become colours that one sees (Latent-NeRF).

arXiv 2211.07600: a field is rendered into the latents that a prior works on, so that no step goes through an
autoencoder. A linear map turns latents into colours; refinement begins with it and goes on in RGB. Where
latents are colours in other coordinates, a field holds colours from the start.
"""

import torch
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located
from gen3d.fields.heads import PlainHead
from gen3d.fields.voxels import GridField

SCALE, BIAS = 25.0, -5.5
"""Density that a raw value of 1 stands for, and what is added to raw values: see `VoxelField`."""
SETTLED = 0.6
"""The share of a run after which what is empty may be taken to stay so."""
COARSEST = 4
"""Points along a side of the coarsest grid, at least."""
BLOB, BLOB_SIZE = 4.5, 0.6
"""Raw density at the middle at the start, and the deviation of the Gaussian that it falls with, in units."""


class Look(nn.Module):
    """From what a field stores to what is seen: latents at first, colours later.

    Args:
        latent_channels: c, of the prior.

    Attributes:
        to_rgb: (3, c + 1): colours (R, G, B) in [0, 1] of latents with a 1 at their end.
        in_rgb: whether colours are asked for by now.
    """

    to_rgb: Tensor
    in_rgb: Tensor

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.register_buffer("to_rgb", torch.zeros(3, latent_channels + 1))
        self.register_buffer("in_rgb", torch.zeros((), dtype=torch.bool))

    @property
    def channels(self) -> int:
        return 3 if self.in_rgb else self.latent_channels

    def of_colours(self) -> None:
        """From now on what is stored are three colours, from the middle grey."""
        self.to_rgb.copy_(torch.tensor([[1, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 1, 0.5]]))
        self.in_rgb.fill_(True)

    def forward(self, latents: Tensor) -> Tensor:
        """(P, channels) of latents (P, c)."""
        if not self.in_rgb:
            return latents
        return latents @ self.to_rgb[:, :-1].T + self.to_rgb[:, -1]


class Pyramid(nn.Module):
    """A grid as the sum of grids, each twice as coarse as the next, made as fine as the finest.

    Gradients of distillation are noise for the most part. Adam moves every number by about its learning rate,
    however noisy, so that single voxels walk at random; a point of a coarse grid hears of many rays.

    Args:
        channels: of the grid.
        shape: points along its axes, 2 or 3 of them, equally many.
        levels: how many grids; fewer where the coarsest would have less than COARSEST points a side.
    """

    grids: nn.ParameterList

    def __init__(self, channels: int, shape: tuple[int, ...], levels: int = 5) -> None:
        super().__init__()
        sides = [max(shape)]
        while len(sides) < levels and sides[-1] // 2 >= COARSEST:
            sides.append(sides[-1] // 2)
        self.shape = shape
        self.grids = nn.ParameterList(
            nn.Parameter(torch.zeros(1, channels, *len(shape) * [side])) for side in reversed(sides)
        )

    def forward(self) -> Tensor:
        """(channels, ...) of the grid."""
        mode = "bilinear" if len(self.shape) == 2 else "trilinear"
        finer = [
            nn.functional.interpolate(grid, self.shape, mode=mode, align_corners=True) for grid in self.grids
        ]
        return torch.stack(finer).sum(0)[0]


class LatentField(GridField):
    """Density and latents on a voxel grid that is the sum of coarser and finer ones.

    Args:
        box: (2, 3), corners of the grid.
        resolution: grid points along the longest side.
        latent_channels: c, of the prior.

    Attributes:
        look: what latents look like.
        start: (P, 1) raw densities of the ball that it begins as.
        pyramid: density, then latents, of the grid.
    """

    start: Tensor

    def __init__(self, box: Tensor, resolution: int, latent_channels: int) -> None:
        super().__init__(box, resolution, PlainHead(latent_channels), SCALE, BIAS)
        self.look = Look(latent_channels)
        self.pyramid = Pyramid(1 + latent_channels, self.shape)
        distance = self.grid_points().norm(dim=1, keepdim=True)
        start = BLOB * torch.exp(-0.5 * (distance / BLOB_SIZE) ** 2)
        self.register_buffer("start", start, persistent=False)
        self._made: Tensor | None = None
        self._made_of = 0

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.look.channels

    @torch.no_grad()
    def hold(self, density: Tensor, features: Tensor | None) -> None:
        """Take raw densities (P, 1), and features (P, c) if given, to go on from."""
        finest = self.pyramid.grids[-1]
        values = [density - self.start, *([] if features is None else [features])]
        for channel, column in enumerate(torch.cat(values, 1).T):
            finest[0, channel] = column.view(self.shape)

    def tables(self) -> tuple[Tensor, Tensor]:
        made, version = self._made, sum(grid._version for grid in self.pyramid.grids)
        # Summed once for all rays until a number changes, or a gradient is asked for that it does not carry.
        if made is None or self._made_of != version or (torch.is_grad_enabled() and not made.requires_grad):
            made = self.pyramid().flatten(1).T
            self._made, self._made_of = made, version
        return made[:, :1] + self.start, made[:, 1:]

    def progress(self, share: float) -> None:
        self._made = None  # the last step's backward has freed its graph
        # A shape grows into what is empty yet.
        self.settled = share > SETTLED

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return self.look(super().colour(located, directions, times))

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [(list(self.pyramid.parameters()), 1.0)]

    def refine(self, resolution: int) -> None:
        raise Gen3dError("a pyramid has all its resolutions from the start; give one")

    def seen(self) -> "LatentField":
        """The same in colours."""
        shown = LatentField(self.box, max(self.shape), self.look.latent_channels)
        shown.load_state_dict(self.state_dict())
        shown.look.in_rgb.fill_(True)
        return shown


class TextureField(Field):
    """Latents on the surface of a mesh, by the places of a texture (Latent-Paint). It has no density.

    Args:
        box: (2, 3), around the mesh.
        resolution: T, texels along a side.
        latent_channels: c, of the prior.
    """

    def __init__(self, box: Tensor, resolution: int, latent_channels: int) -> None:
        super().__init__()
        self.register_buffer("box", box.clone().float())
        self.look = Look(latent_channels)
        self.pyramid = Pyramid(latent_channels, (resolution, resolution))

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.look.channels

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        raise Gen3dError("a texture has no density; it is seen on its mesh")

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        """Of places (P, 2) of the texture in [0, 1], the second from its lower edge up."""
        grid = torch.stack([2 * located[0][:, 0] - 1, 1 - 2 * located[0][:, 1]], -1)
        found = nn.functional.grid_sample(
            self.pyramid()[None], grid[None, None], padding_mode="border", align_corners=False
        )
        return self.look(found[0, :, 0].T)

    def image(self) -> Tensor:
        """(T, T, 3) in [0, 1], the texture as one sees it."""
        latents = self.pyramid().permute(1, 2, 0)
        matrix = self.look.to_rgb
        return (latents @ matrix[:, :-1].T + matrix[:, -1]).clamp(0, 1)

    def penalties(self) -> dict[str, Tensor]:
        """`variation`: mean absolute difference of neighbouring texels, over both axes."""
        texture = self.pyramid()
        return {"variation": texture.diff(dim=1).abs().mean() + texture.diff(dim=2).abs().mean()}
