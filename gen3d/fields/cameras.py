"""Pinhole cameras and the rays through their pixels.

Axes are OpenGL's and Blender's: a camera looks down its -z, +x is right and +y is up; the world's +z is up. A
pixel's ray goes through its centre, half a pixel from its corner.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3d.errors import Gen3dError

RIGID = 1e-3
"""How far the rotation of a camera may be from orthonormal: poses are often stored with few digits."""


@dataclass(frozen=True)
class Rays:
    """Half-lines of light.

    Attributes:
        origins: (R, 3).
        directions: (R, 3), of unit length.
        times: (R,) in [0, 1], or None where nothing moves.
    """

    origins: Tensor
    directions: Tensor
    times: Tensor | None = None

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: Tensor | slice) -> "Rays":
        times = None if self.times is None else self.times[index]
        return Rays(self.origins[index], self.directions[index], times)

    def at(self, depth: Tensor) -> Tensor:
        """Points (R, ..., 3) at distances (R, ...) from the origins."""
        shape = (len(self), *(1,) * (depth.ndim - 1), 3)
        return self.origins.view(shape) + depth[..., None] * self.directions.view(shape)


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras (V of them) whose images have one size.

    Attributes:
        camera_to_world: (V, 3, 4), rotation and position.
        focal: (V, 2), focal lengths along x and y in pixels.
        centre: (V, 2), where the optical axis meets the image, in pixels from its upper left corner.
        width, height: of the images, in pixels.
        times: (V,) in [0, 1], or None where nothing moves.

    Raises:
        Gen3dError: values that are not finite, rotations that are none, focal lengths or sizes that are not
            positive, or times outside [0, 1]; the number of the camera is named.
    """

    camera_to_world: Tensor
    focal: Tensor
    centre: Tensor
    width: int
    height: int
    times: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.camera_to_world)
        shapes = (tuple(self.camera_to_world.shape), tuple(self.focal.shape), tuple(self.centre.shape))
        if shapes != ((count, 3, 4), (count, 2), (count, 2)):
            raise Gen3dError(
                f"cameras are of shapes {shapes}; allowed: (V, 3, 4) poses, (V, 2) focal lengths and centres"
            )
        if self.width < 1 or self.height < 1:
            raise Gen3dError(f"images of {self.width} x {self.height} pixels; both must be at least 1")
        rotation = self.camera_to_world[:, :, :3]
        turned = rotation @ rotation.transpose(1, 2) - torch.eye(3, device=rotation.device)
        finite = self.camera_to_world.isfinite().all((1, 2))
        finite &= self.focal.isfinite().all(1) & self.centre.isfinite().all(1)
        rigid = (turned.abs().amax((1, 2)) < RIGID) & (torch.linalg.det(rotation.nan_to_num()) > 0)
        checks = {
            "a pose, focal length or centre that is not finite": ~finite,
            "a pose whose 3 x 3 part is no rotation": ~rigid,
            "a focal length that is not positive": ~(self.focal > 0).all(1),
        }
        if self.times is not None:
            if self.times.shape != (count,):
                raise Gen3dError(f"{count} cameras, times of shape {tuple(self.times.shape)}")
            checks["a time outside [0, 1]"] = ~((self.times >= 0) & (self.times <= 1))
        for complaint, wrong in checks.items():
            if wrong.any():
                raise Gen3dError(f"camera {int(wrong.nonzero()[0])} of {count} has {complaint}")

    def __len__(self) -> int:
        return len(self.camera_to_world)

    def __getitem__(self, index: Tensor | slice | list[int]) -> "Cameras":
        """Some of them."""
        return dataclasses.replace(
            self,
            camera_to_world=self.camera_to_world[index],
            focal=self.focal[index],
            centre=self.centre[index],
            times=None if self.times is None else self.times[index],
        )

    def to(self, device: torch.device | str) -> "Cameras":
        return dataclasses.replace(
            self,
            camera_to_world=self.camera_to_world.to(device),
            focal=self.focal.to(device),
            centre=self.centre.to(device),
            times=None if self.times is None else self.times.to(device),
        )

    def at(self, time: float) -> "Cameras":
        """The same cameras, all at one time."""
        return dataclasses.replace(self, times=torch.full((len(self),), time, device=self.focal.device))

    def resized(self, width: int, height: int) -> "Cameras":
        """The same views in images of another size."""
        scale = self.focal.new_tensor([width / self.width, height / self.height])
        return dataclasses.replace(
            self, focal=self.focal * scale, centre=self.centre * scale, width=width, height=height
        )

    @property
    def positions(self) -> Tensor:
        """(V, 3)."""
        return self.camera_to_world[:, :, 3]

    def rays(self, view: Tensor, x: Tensor, y: Tensor) -> Rays:
        """Rays (R) through the centres of pixels: whole `x` to the right and `y` down of cameras `view`."""
        offset = torch.stack([x, y], 1).to(self.focal.dtype) + 0.5 - self.centre[view]
        slopes = offset / self.focal[view]
        local = torch.stack([slopes[:, 0], -slopes[:, 1], -torch.ones_like(slopes[:, 0])], 1)
        pose = self.camera_to_world[view]
        directions = torch.nn.functional.normalize(torch.einsum("rij,rj->ri", pose[:, :, :3], local), dim=1)
        return Rays(pose[:, :, 3], directions, None if self.times is None else self.times[view])

    def image_rays(self, view: int) -> Rays:
        """All rays of one image, row by row: (height * width)."""
        y, x = torch.meshgrid(
            torch.arange(self.height, device=self.focal.device),
            torch.arange(self.width, device=self.focal.device),
            indexing="ij",
        )
        return self.rays(torch.full_like(x.flatten(), view), x.flatten(), y.flatten())

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where points (P, 3) are seen.

        Returns:
            pixels (V, P, 2), continuous, from the upper left corner; and distances (V, P) in front of the
            camera along its axis, negative behind it.
        """
        rotation, position = self.camera_to_world[:, :, :3], self.positions
        local = torch.einsum("vji,vpj->vpi", rotation, points[None] - position[:, None])
        depth = -local[..., 2]
        safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
        slopes = torch.stack([local[..., 0], -local[..., 1]], -1) / safe[..., None]
        return slopes * self.focal[:, None] + self.centre[:, None], depth


def look_at(positions: Tensor, target: Tensor) -> Tensor:
    """Poses (V, 3, 4) of cameras at `positions` (V, 3) that look at `target` (3,), upright.

    A camera straight above or below looks with the world's +y up in its image.

    Raises:
        Gen3dError: a camera is at the target.
    """
    back = positions - target
    distance = back.norm(dim=1, keepdim=True)
    if (distance < 1e-9).any():
        raise Gen3dError(
            f"camera {int((distance < 1e-9).nonzero()[0, 0])} is at the point that it should look at"
        )
    back = back / distance
    up = back.new_tensor([0.0, 0.0, 1.0]).expand_as(back)
    steep = back[:, 2:].abs() > 1 - 1e-6
    up = torch.where(steep, back.new_tensor([0.0, 1.0, 0.0]), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back, dim=1), dim=1)
    upright = torch.linalg.cross(back, right, dim=1)
    return torch.stack([right, upright, back, positions], 2)


def around(
    azimuth: Tensor,
    elevation: Tensor,
    *,
    radius: float,
    target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    field_of_view: float = 40.0,
    width: int = 200,
    height: int = 200,
    times: Tensor | None = None,
) -> Cameras:
    """Cameras on a sphere that look at its centre.

    Args:
        azimuth: (V,) degrees about +z; 0 is on +x, 90 on +y.
        elevation: (V,) degrees above the horizon.
        radius: of the sphere.
        target: its centre.
        field_of_view: degrees across the width of an image.
        width, height: of the images, in pixels.
        times: (V,) in [0, 1].

    Raises:
        Gen3dError: a radius that is not positive, or a field of view outside (0, 180).
    """
    if not radius > 0:
        raise Gen3dError(f"radius is {radius}; it must be above 0")
    if not 0 < field_of_view < 180:
        raise Gen3dError(f"field_of_view is {field_of_view}; it must be between 0 and 180 degrees")
    turn, rise = torch.deg2rad(azimuth.float()), torch.deg2rad(elevation.float())
    flat = rise.cos()
    directions = torch.stack([flat * turn.cos(), flat * turn.sin(), rise.sin()], 1)
    centre = directions.new_tensor(target)
    focal = 0.5 * width / math.tan(math.radians(field_of_view) / 2)
    return Cameras(
        look_at(centre + radius * directions, centre),
        torch.full((len(azimuth), 2), focal),
        torch.tensor([[width / 2, height / 2]]).repeat(len(azimuth), 1),
        width,
        height,
        times,
    )


def orbit(count: int, *, elevation: float = 20.0, **settings: object) -> Cameras:
    """Cameras (count) on a full turn about the world's +z, the first on +x; `settings` as of `around`."""
    if count < 1:
        raise Gen3dError(f"count is {count}; at least 1 camera")
    azimuth = torch.arange(count) * (360.0 / count)
    return around(azimuth, torch.full((count,), elevation), **settings)  # type: ignore[arg-type]
