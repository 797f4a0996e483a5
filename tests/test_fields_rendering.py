"""Volume rendering against closed forms, loops, Monte Carlo and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located
from gen3d.fields.cameras import Rays, around
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.rendering import render, render_image

CUBE = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])


class Analytic(Field):
    """A field given by functions of points."""

    def __init__(self, density, colour=None, channels=3, box=CUBE):
        super().__init__()
        self.register_buffer("box", box)
        self.of, self.shade, self.channels = density, colour, channels
        self.asked = 0

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        self.asked += len(points)
        return self.of(points) if times is None else self.of(points, times), (points,)

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        (points,) = located
        return self.shade(points) if self.shade else points.new_ones(len(points), self.channels)


def ball(points: Tensor) -> Tensor:
    return 500.0 * (points.norm(dim=1) < 0.5)


def cloud(points: Tensor) -> Tensor:
    return 3 * torch.exp(-4 * points.square().sum(1))


def shades(points: Tensor) -> Tensor:
    return torch.sigmoid(points)


def along_x(*offsets: tuple[float, float]) -> Rays:
    origins = torch.tensor([[-3.0, y, z] for y, z in offsets])
    return Rays(origins, torch.tensor([[1.0, 0, 0]]).expand_as(origins))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_constant_density_has_a_closed_form(sigma):
    field = Analytic(lambda points: torch.full((len(points),), sigma))
    seen = render(field, along_x((0, 0), (0.3, -0.7)), length=0.01, background=torch.zeros(3))
    opacity = 1 - math.exp(-2 * sigma)
    assert seen.opacity.numpy() == pytest.approx([opacity] * 2, rel=1e-4)
    assert seen.colour.numpy() == pytest.approx(np.full((2, 3), opacity), rel=1e-3)
    # Mean of an exponential law cut off at the far side, from the camera 2 before the near one.
    depth = 2 + 1 / sigma - 2 * math.exp(-2 * sigma) / opacity
    assert seen.depth.numpy() == pytest.approx([depth] * 2, abs=0.01)


def test_the_background_is_seen_through_what_is_transparent():
    field = Analytic(
        lambda points: torch.full((len(points),), 0.5), lambda points: torch.zeros(len(points), 3)
    )
    seen = render(field, along_x((0, 0)), length=0.01, background=torch.tensor([0.2, 0.4, 1.0]))
    assert seen.colour[0].numpy() == pytest.approx(np.exp(-1) * np.array([0.2, 0.4, 1.0]), rel=1e-3)


def steep(points: Tensor) -> Tensor:
    return 500 * torch.sigmoid((0.5 - points.norm(dim=1)) / 0.005)


class TestFinerSteps:
    def test_a_thin_shell_is_seen_as_it_is(self):
        """Coarse steps hit or miss it by chance; finer ones near it find its optical thickness."""
        thickness, wide = 1.5, 0.03
        field = Analytic(
            lambda p: thickness / (wide * math.sqrt(math.pi)) * torch.exp(-((p[:, 0] - 0.13) / wide).square())
        )
        exact = 1 - math.exp(-thickness)
        rays = along_x((0, 0), (0.3, 0.2))
        coarse = render(field, rays, length=0.1)
        fine = render(field, rays, length=0.1, finer=32)
        assert fine.opacity.numpy() == pytest.approx([exact] * 2, abs=1e-3)
        assert (fine.opacity - exact).abs().max() < 0.1 * (coarse.opacity - exact).abs().max()
        assert fine.depth.numpy() == pytest.approx(render(field, rays, length=1e-3).depth.numpy(), abs=0.005)

    @pytest.mark.parametrize("sigma", [0.1, 5.0])
    def test_no_length_is_lost(self, sigma):
        field = Analytic(lambda points: torch.full((len(points),), sigma))
        seen = render(field, along_x((0, 0), (0.3, -0.7), (3, 0)), length=0.05, finer=20)
        opacity = 1 - math.exp(-2 * sigma)
        assert seen.opacity.numpy() == pytest.approx([opacity, opacity, 0], rel=1e-4)

    def test_they_go_where_most_is_seen(self):
        places = []

        def density(points: Tensor) -> Tensor:
            places.append(points)
            return ball(points)

        render(Analytic(density), along_x((0, 0)), length=0.1, finer=40)
        first, second = places
        assert len(first) == 20
        assert 50 <= len(second) <= 70
        near = (second[:, 0] + 0.5).abs() < 0.2  # the ball's near side; its inside is hidden
        assert near.float().mean() > 0.6

    def test_gradients_are_those_of_finite_differences(self):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        rays = along_x((0.2, -0.1))
        rays = Rays(rays.origins.double(), rays.directions.double())

        def opacity(scale: Tensor) -> Tensor:
            # Where steps are split is no function of the scale: the look is at another field.
            field = Analytic(lambda p: scale * cloud(p), box=CUBE.double())
            return render(field, rays, length=0.2, finer=8).opacity

        assert torch.autograd.gradcheck(opacity, (scale,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "off", "agreement"), [(ball, 0.01, 0.85), (steep, 0.03, 0.99)])
def test_a_ball_has_its_silhouette_depth_and_normals(shape, off, agreement):
    """A density that jumps has slopes of 0 or all along each axis, hence coarse normals; one that rises
    over 0.02 begins to be seen that much earlier."""
    cameras = around(torch.tensor([30.0]), torch.tensor([20.0]), radius=3.0, width=60, height=60)
    seen = render_image(Analytic(shape), cameras, length=0.005, normals=True)
    rays = cameras.image_rays(0)
    nearest = -(rays.origins * rays.directions).sum(1)
    miss = (rays.origins + nearest[:, None] * rays.directions).norm(dim=1)
    clear = (miss - 0.5).abs() > 0.05
    hit = (miss < 0.5) & clear
    opacity = seen.opacity.flatten()
    assert (opacity[hit] > 0.99).all()
    assert (opacity[clear & ~hit] < 0.01).all()
    depth = nearest - (0.25 - miss.square()).clamp(min=0).sqrt()
    inner = miss < 0.45
    assert (seen.depth.flatten() - depth)[inner].abs().max() < off
    assert seen.normals is not None
    true = torch.nn.functional.normalize(rays.at(depth), dim=1)
    found = seen.normals.reshape(-1, 3)
    assert (found * true).sum(1)[inner].mean() > agreement
    assert (render_image(Analytic(ball), cameras, length=0.02, normals=True).normals[0, 0] == 0).all()


def test_normals_of_a_smooth_cloud_point_outwards():
    field = Analytic(lambda points: 30 * torch.exp(-8 * points.square().sum(1)))
    rays = along_x((0.2, 0.1))
    seen = render(field, rays, length=0.01, normals=True)
    point = rays.at(seen.depth)[0]
    assert seen.normals is not None
    assert seen.normals[0].norm().item() == pytest.approx(1, abs=1e-5)
    assert seen.normals[0] @ torch.nn.functional.normalize(point, dim=0) > 0.97


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_any_number_of_channels_against_a_loop(channels):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, channels, generator=generator)
    field = Analytic(cloud, lambda points: torch.sigmoid(points @ matrix), channels)
    length, rays = 0.05, along_x((0.1, 0.2), (0.5, -0.4), (3.0, 0.0))
    seen = render(field, rays, length=length, background=torch.full((channels,), 0.3), least_weight=0.0)
    for number in range(2):
        light, colour, opacity = 1.0, torch.zeros(channels), 0.0
        for step in range(40):
            point = torch.tensor([[-1 + (step + 0.5) * length, *rays.origins[number, 1:].tolist()]])
            weight = light * (1 - math.exp(-float(cloud(point)) * length))
            colour = colour + weight * torch.sigmoid(point @ matrix)[0]
            opacity, light = opacity + weight, light - weight
        assert seen.opacity[number].item() == pytest.approx(opacity, rel=1e-4)
        assert seen.colour[number].numpy() == pytest.approx((colour + light * 0.3).numpy(), rel=1e-4)
    assert seen.opacity[2] == 0  # it misses the box
    assert seen.colour[2].numpy() == pytest.approx([0.3] * channels)


def test_against_free_flights_of_photons():
    """Delta tracking: unbiased, and without steps (Woodcock 1965)."""
    rng = np.random.default_rng(0)
    count, most = 200_000, 3.0
    x, alive = np.full(count, -1.0), np.ones(count, bool)
    while alive.any():
        x[alive] += rng.exponential(1 / most, alive.sum())
        alive &= x <= 1
        points = np.stack([x, np.full(count, 0.2), np.full(count, -0.1)], 1)
        density = cloud(torch.from_numpy(points)).numpy()
        stopped = alive & (rng.random(count) < density / most)
        alive &= ~stopped
    hit = x <= 1
    colour = 1 / (1 + np.exp(-np.array([x[hit].mean() * 0, 0.2, -0.1])))
    colour[0] = (1 / (1 + np.exp(-x[hit]))).mean()
    seen = render(Analytic(cloud, shades), along_x((0.2, -0.1)), length=0.01)
    error = 4 / math.sqrt(count)
    assert seen.opacity[0].item() == pytest.approx(hit.mean(), abs=error)
    assert seen.colour[0].numpy() == pytest.approx(hit.mean() * colour, abs=error)


def test_gradients_are_those_of_finite_differences():
    centre = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def opacity(centre: Tensor) -> Tensor:
        box = CUBE.double()
        field = Analytic(
            lambda p: 3 * torch.exp(-4 * (p - centre).square().sum(1)), lambda p: shades(p - centre), box=box
        )
        rays = along_x((0.2, -0.1), (0.0, 0.3))
        rays = Rays(rays.origins.double(), rays.directions.double())
        seen = render(field, rays, length=0.1, background=torch.zeros(3).double(), least_weight=0.0)
        return torch.cat([seen.colour.flatten(), seen.opacity, seen.depth])

    assert torch.autograd.gradcheck(opacity, (centre,), eps=1e-5, atol=1e-6)


def test_jitter_changes_no_mean():
    rays = along_x(*[(0.2, -0.1)] * 4000)
    generator = torch.Generator().manual_seed(1)
    jittered = render(Analytic(cloud), rays, length=0.2, jitter=True, generator=generator)
    exact = render(Analytic(cloud), rays[:1], length=0.001)
    assert jittered.opacity.std() > 1e-4
    assert jittered.opacity.mean().item() == pytest.approx(exact.opacity.item(), abs=0.003)


class TestOccupancy:
    def test_a_right_grid_changes_no_picture_and_asks_less(self):
        cameras = around(torch.tensor([10.0]), torch.tensor([30.0]), radius=3.0, width=40, height=40)
        field = Analytic(ball, shades)
        occupancy = Occupancy(CUBE, 32)
        occupancy.update(field, 1.0, torch.Generator().manual_seed(0))
        with_grid = render_image(field, cameras, length=0.01, occupancy=occupancy)
        without = render_image(field, cameras, length=0.01)
        assert with_grid.colour.numpy() == pytest.approx(without.colour.numpy(), abs=1e-6)
        assert with_grid.asked < without.asked / 3
        assert 0.05 < occupancy.share < 0.25  # the ball has 6.5% of the cube

    def test_silhouettes_leave_the_visual_hull(self):
        azimuth = torch.arange(0.0, 360, 45).repeat(2)
        elevation = torch.tensor([0.0] * 8 + [50.0] * 8)
        cameras = around(azimuth, elevation, radius=3.0, width=80, height=80)
        opaque = torch.stack(
            [render_image(Analytic(ball), cameras, v, length=0.02).opacity > 0.5 for v in range(16)]
        )
        occupancy = Occupancy(CUBE, 32)
        occupancy.carve(cameras, opaque)
        radii = occupancy.centres().norm(dim=1)
        kept = occupancy.cells[0].flatten()
        assert kept[radii < 0.5].all()
        assert not kept[radii > 0.75].any()

    def test_a_cell_is_kept_for_the_times_that_see_something(self):
        cameras = around(
            torch.zeros(2), torch.zeros(2), radius=3.0, width=8, height=8, times=torch.tensor([0.0, 1.0])
        )
        opaque = torch.stack([torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)])
        occupancy = Occupancy(CUBE, 4, times=2)
        occupancy.carve(cameras, opaque, least=0.5)
        assert occupancy.cells[0].any()
        assert not occupancy.cells[1].any()
        middle = torch.zeros(2, 3)
        assert occupancy.contains(middle, torch.tensor([0.2, 0.9])).tolist() == [True, False]
        assert occupancy.contains(middle).tolist() == [True, True]

    def test_what_moves_is_kept_where_it_is_when(self):
        def moving(points: Tensor, times: Tensor) -> Tensor:
            return 100.0 * ((points[:, 0] - (2 * times - 1) * 0.6).abs() < 0.1)

        occupancy = Occupancy(CUBE, 16, times=4)
        occupancy.update(Analytic(moving), 1.0, torch.Generator().manual_seed(0))
        points = torch.tensor([[-0.55, 0, 0], [0.55, 0, 0]]).repeat(2, 1)
        times = torch.tensor([0.05, 0.05, 0.95, 0.95])
        assert occupancy.contains(points, times).tolist() == [True, False, False, True]


class TestChunks:
    CAMERAS = around(torch.tensor([0.0]), torch.tensor([10.0]), radius=3.0, width=20, height=14)

    def test_chunks_make_the_whole(self):
        field = Analytic(cloud, shades)
        whole = render_image(field, self.CAMERAS, length=0.05, normals=True)
        parts = render_image(field, self.CAMERAS, length=0.05, normals=True, chunk=33)
        for name in ("colour", "opacity", "depth", "normals"):
            assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-6)
        assert whole.colour.shape == (14, 20, 3)

    def test_out_of_memory_halves_them_and_says_so(self):
        def limited(points: Tensor) -> Tensor:
            if len(points) > 2500:
                raise MemoryError
            return cloud(points)

        with pytest.warns(UserWarning, match="out of memory; rendering 140 rays"):
            some = render_image(Analytic(limited, shades), self.CAMERAS, length=0.05)
        whole = render_image(Analytic(cloud, shades), self.CAMERAS, length=0.05)
        assert torch.allclose(some.colour, whole.colour, atol=1e-6)

    def test_other_errors_are_not_hidden(self):
        def broken(points: Tensor) -> Tensor:
            raise RuntimeError("sizes do not match")

        with pytest.raises(RuntimeError, match="sizes"):
            render_image(Analytic(broken), self.CAMERAS, length=0.05)


@pytest.mark.parametrize("length", [0.0, -1.0, math.nan])
def test_steps_must_have_a_length(length):
    with pytest.raises(Gen3dError, match="length of a step"):
        render(Analytic(cloud), along_x((0, 0)), length=length)
