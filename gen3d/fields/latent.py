"""Fields whose colours are latents of a prior of pictures, and become colours that one sees (Latent-NeRF).

arXiv 2211.07600: a field is rendered into the latents that a prior works on, so that no step goes through an
autoencoder. A linear map turns latents into colours; refinement begins with it and goes on in RGB.
"""

import torch
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located
from gen3d.fields.heads import PlainHead
from gen3d.fields.voxels import VoxelField

SCALE, BIAS = 25.0, -4.0
"""Density that a raw value of 1 stands for, and what is added to raw values: see `VoxelField`."""
BLOB, BLOB_SIZE = 4.5, 0.4
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

    def forward(self, latents: Tensor) -> Tensor:
        """(P, channels) of latents (P, c)."""
        if not self.in_rgb:
            return latents
        return latents @ self.to_rgb[:, :-1].T + self.to_rgb[:, -1]


class LatentField(VoxelField):
    """Density and latents on a voxel grid.

    Args:
        box: (2, 3), corners of the grid.
        resolution: grid points along the longest side.
        latent_channels: c, of the prior.

    Attributes:
        look: what latents look like.
    """

    def __init__(self, box: Tensor, resolution: int, latent_channels: int) -> None:
        super().__init__(box, resolution, PlainHead(latent_channels), SCALE, BIAS)
        self.look = Look(latent_channels)
        with torch.no_grad():
            distance = self.grid_points().norm(dim=1)
            self.density_table[:, 0] = BLOB * torch.exp(-0.5 * (distance / BLOB_SIZE) ** 2)

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.look.channels

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return self.look(super().colour(located, directions, times))

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

    texture: nn.Parameter

    def __init__(self, box: Tensor, resolution: int, latent_channels: int) -> None:
        super().__init__()
        self.register_buffer("box", box.clone().float())
        self.look = Look(latent_channels)
        self.texture = nn.Parameter(torch.zeros(1, latent_channels, resolution, resolution))

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.look.channels

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        raise Gen3dError("a texture has no density; it is seen on its mesh")

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        """Of places (P, 2) of the texture in [0, 1], the second from its lower edge up."""
        grid = torch.stack([2 * located[0][:, 0] - 1, 1 - 2 * located[0][:, 1]], -1)
        found = nn.functional.grid_sample(
            self.texture, grid[None, None], padding_mode="border", align_corners=False
        )
        return self.look(found[0, :, 0].T)

    def image(self) -> Tensor:
        """(T, T, 3) in [0, 1], the texture as one sees it."""
        latents = self.texture[0].permute(1, 2, 0)
        matrix = self.look.to_rgb
        return (latents @ matrix[:, :-1].T + matrix[:, -1]).clamp(0, 1)

    def penalties(self) -> dict[str, Tensor]:
        """`variation`: mean absolute difference of neighbouring texels, over both axes."""
        texture = self.texture
        return {"variation": texture.diff(dim=2).abs().mean() + texture.diff(dim=3).abs().mean()}

    @torch.no_grad()
    def refine(self, resolution: int) -> None:
        finer = nn.functional.interpolate(
            self.texture, 2 * [resolution], mode="bilinear", align_corners=False
        )
        self.texture = nn.Parameter(finer)
