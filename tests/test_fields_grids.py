"""Fields on grids and planes, heads, penalties: brute force, reference libraries, finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from gen3d.errors import Gen3dError
from gen3d.fields.base import unit
from gen3d.fields.harmonics import bands, count, harmonics
from gen3d.fields.hashgrid import HashField, HashGrid, hashed
from gen3d.fields.heads import HEADS, HarmonicsAttentionHead, HarmonicsHead, make_head, time_features
from gen3d.fields.planes import Deformation, Planes, six_planes
from gen3d.fields.rivals import HexPlaneField, KPlanesField
from gen3d.fields.shade import ShadeField
from gen3d.fields.tables import corners, read, resized
from gen3d.fields.voxels import VoxelField, grid_shape

BOX = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def directions(number: int) -> torch.Tensor:
    return torch.nn.functional.normalize(draw(number, 3, seed=5), dim=1)


class TestTables:
    @pytest.mark.parametrize("shape", [(5,), (3, 4), (4, 3, 5), (3, 4, 2, 5)])
    def test_reading_is_multilinear_interpolation(self, shape):
        table = draw(math.prod(shape), 2).double()
        places = 2.2 * torch.rand(40, len(shape), generator=torch.Generator().manual_seed(1)).double() - 1.1
        found = read(table, *corners(places, shape))
        grid = table.view(*shape, 2)
        for place, value in zip(places, found, strict=True):
            at = [(min(max(float(p), -1), 1) + 1) / 2 * (n - 1) for p, n in zip(place, shape, strict=True)]
            expected = torch.zeros(2).double()
            for corner in itertools.product((0, 1), repeat=len(shape)):
                low = [min(int(a), n - 2) for a, n in zip(at, shape, strict=True)]
                weight = math.prod(
                    a - i if c else 1 - (a - i) for a, i, c in zip(at, low, corner, strict=True)
                )
                expected += weight * grid[tuple(i + c for i, c in zip(low, corner, strict=True))]
            assert torch.allclose(value, expected, atol=1e-12)

    def test_it_agrees_with_grid_sample(self):
        grid = draw(1, 3, 6, 5, 4)  # (batch, channels, z, y, x)
        places = 2 * torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) - 1
        theirs = torch.nn.functional.grid_sample(grid, places.view(1, 50, 1, 1, 3), align_corners=True)
        table = grid[0].permute(3, 2, 1, 0).reshape(-1, 3)  # x slowest
        ours = read(table, *corners(places, (4, 5, 6)))
        assert torch.allclose(ours, theirs[0, :, :, 0, 0].T, atol=1e-5)

    def test_gradients(self):
        table = draw(4 * 3 * 3, 2).double().requires_grad_()
        places = (
            0.9 * torch.rand(6, 3, generator=torch.Generator().manual_seed(3)).double()
        ).requires_grad_()

        def value(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            return read(table, *corners(places, (4, 3, 3)))

        assert torch.autograd.gradcheck(value, (table, places))

    def test_linear_functions_survive_resizing(self):
        shape, new = (3, 4, 5), (7, 5, 9)
        axes = [torch.linspace(-1, 1, n) for n in shape]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        table = (grid @ torch.tensor([1.0, -2.0, 0.5]))[..., None].reshape(-1, 1)
        axes = [torch.linspace(-1, 1, n) for n in new]
        expected = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ torch.tensor([1.0, -2.0, 0.5])
        assert torch.allclose(resized(table, shape, new).view(new), expected, atol=1e-6)


class TestHarmonics:
    def test_they_are_orthonormal(self):
        nodes, weights = np.polynomial.legendre.leggauss(8)
        azimuth = np.arange(16) * 2 * np.pi / 16
        z, phi = (x.ravel() for x in np.meshgrid(nodes, azimuth, indexing="ij"))
        w = np.repeat(weights, 16) * 2 * np.pi / 16
        flat = np.sqrt(1 - z**2)
        points = torch.from_numpy(np.stack([flat * np.cos(phi), flat * np.sin(phi), z], 1))
        basis = harmonics(points, 3).numpy()
        assert np.allclose(basis.T @ (w[:, None] * basis), np.eye(16), atol=1e-12)

    def test_they_are_scipys(self):
        points = directions(50).double()
        polar, azimuth = torch.arccos(points[:, 2]).numpy(), torch.atan2(points[:, 1], points[:, 0]).numpy()
        columns = []
        for degree in range(4):
            for order in range(-degree, degree + 1):
                value = sph_harm_y(degree, abs(order), polar, azimuth)
                real = {-1: value.imag, 0: value.real, 1: value.real}[int(np.sign(order))]
                # scipy has the Condon-Shortley phase, (-1)^m.
                columns.append(real * (math.sqrt(2) * (-1) ** order if order else 1))
        assert np.allclose(harmonics(points, 3).numpy(), np.stack(columns, 1), atol=1e-6)

    def test_degrees(self):
        assert [count(degree) for degree in range(4)] == [1, 4, 9, 16]
        assert bands(2) == [0, 1, 1, 1, 2, 2, 2, 2, 2]
        with pytest.raises(Gen3dError, match="degree of spherical harmonics is 4"):
            count(4)


class TestHeads:
    def test_attention_begins_as_plain_harmonics(self):
        plain, attention = HarmonicsHead(2), HarmonicsAttentionHead(2)
        features = torch.cat([draw(7, plain.features), torch.zeros(7, 12)], 1)
        seen, times = directions(7), torch.rand(7)
        assert torch.allclose(
            attention(features, seen, times), plain(features[:, : plain.features], seen, times), atol=1e-6
        )

    def test_attention_weighs_whole_bands(self):
        """A key that fits the query drowns the others: only its band is left, times the number of bands."""
        head = HarmonicsAttentionHead(1)
        coefficients = draw(1, 12)
        keys = torch.zeros(1, 2, 4)
        keys[0, 1] = 50.0
        seen = directions(1)
        found = head(torch.cat([coefficients, keys.flatten(1)], 1), seen, torch.zeros(1))
        basis = harmonics(seen, 1)[0]
        expected = torch.sigmoid(2 * (coefficients.view(3, 4)[:, 1:] @ basis[1:]))
        assert torch.allclose(found[0], expected, atol=1e-5)

    def test_attention_learns_from_time_and_direction(self):
        head = HarmonicsAttentionHead(1)
        features, seen = draw(1, head.features).expand(2, -1), directions(2)[:1].expand(2, -1)
        assert torch.allclose(*head(features, seen, torch.tensor([0.1, 0.9])))  # at the start it is not told
        torch.nn.init.normal_(head.query.weight, generator=torch.Generator().manual_seed(0))
        one, other = head(features, seen, torch.tensor([0.1, 0.9]))
        assert not torch.allclose(one, other, atol=1e-3)

    @pytest.mark.parametrize("kind", HEADS)
    def test_gradients(self, kind):
        torch.manual_seed(0)
        head = make_head(kind, 1).double()
        features = draw(3, head.features).double().requires_grad_()
        seen, times = directions(3).double(), torch.tensor([0.1, 0.5, 0.9]).double()
        assert torch.autograd.gradcheck(lambda f: head(f, seen, times), (features,))

    def test_time_is_told_by_waves(self):
        found = time_features(torch.zeros(1, 3), torch.tensor([0.25]))[0]
        angles = 0.25 * math.pi * np.arange(1, 5)
        assert np.allclose(found.numpy(), [*np.sin(angles), *np.cos(angles)], atol=1e-6)
        assert (time_features(torch.zeros(2, 3), None) == 0).all()

    def test_unknown_ones_are_refused(self):
        with pytest.raises(Gen3dError, match="head is 'mlp'; allowed: harmonics, attention, perceptron"):
            make_head("mlp", 1)


class TestVoxelField:
    def test_density_and_colour_are_activated_after_interpolation(self):
        field = VoxelField(BOX, 2, HarmonicsHead(0))
        with torch.no_grad():
            field.density_table[:4] = -40.0  # x = -1
            field.density_table[4:] = 44.0
        density, located = field.density(torch.tensor([[0.0, 0, 0], [0.5, 0, 0]]), None)
        raw = torch.tensor([2.0, 23.0]) - 4
        assert torch.allclose(density, 25 * torch.nn.functional.softplus(raw), rtol=1e-5)
        assert torch.allclose(field.colour(located, directions(2), None), torch.full((2, 3), 0.5))

    def test_gradients(self):
        field = VoxelField(BOX, 3).double()
        with torch.no_grad():
            field.density_table.copy_(draw(27, 1))
            field.colour_table.copy_(draw(27, 12))
        points = (0.8 * (2 * torch.rand(4, 3, generator=torch.Generator().manual_seed(4)) - 1)).double()

        def value(points: torch.Tensor) -> torch.Tensor:
            density, located = field.density(points, None)
            return torch.cat([density[:, None], field.colour(located, directions(4).double(), None)], 1)

        assert torch.autograd.gradcheck(value, (points.requires_grad_(),))

    def test_refining_keeps_what_is_there(self):
        field = VoxelField(torch.tensor([[0.0, 0, 0], [4, 2, 2]]), 5)
        with torch.no_grad():
            field.density_table.copy_(draw(len(field.density_table), 1))
        points = torch.tensor([[1.0, 0.5, 1.5], [4.0, 2.0, 0.0], [2.5, 1.25, 0.25]])
        before, _ = field.density(points, None)
        field.refine(9)
        assert field.shape == (9, 5, 5)
        assert torch.allclose(field.density(points, None)[0], before, rtol=1e-4)

    def test_variation_is_zero_only_where_all_is_alike(self):
        field = VoxelField(BOX, 4)
        assert field.penalties()["density_variation"] == 0
        with torch.no_grad():
            field.density_table.view(4, 4, 4)[1:] = 1.0  # one step of 1 among three, along x
        assert field.penalties()["density_variation"].item() == pytest.approx(1 / 3)

    def test_grids(self):
        assert grid_shape(torch.tensor([[0.0, 0, 0], [2, 1, 0.5]]), 9) == (9, 5, 3)
        with pytest.raises(Gen3dError, match="second corner"):
            grid_shape(torch.tensor([[0.0, 0, 0], [1, -1, 1]]), 8)
        with pytest.raises(Gen3dError, match="resolution is 1"):
            VoxelField(BOX, 1)


class TestHashGrid:
    def test_every_level_against_a_loop(self):
        """Rows by whole numbers of Python, which never overflow."""
        grid = HashGrid(levels=3, coarsest=4, finest=40, rows=64, features=2)
        assert grid.sizes == [4, 13, 40]
        for table in grid.tables:
            torch.nn.init.normal_(table)
        places = 0.99 * directions(20)
        found = grid(places).view(20, 3, 2)
        for place, values in zip(places.double(), found, strict=True):
            for level, (table, size) in enumerate(zip(grid.tables, grid.sizes, strict=True)):
                at = [(float(p) + 1) / 2 * (size - 1) for p in place]
                expected = torch.zeros(2)
                for corner in itertools.product((0, 1), repeat=3):
                    point = [int(a) + c for a, c in zip(at, corner, strict=True)]
                    weight = math.prod(a % 1 if c else 1 - a % 1 for a, c in zip(at, corner, strict=True))
                    x, y, z = point
                    row = (x * size + y) * size + z
                    if size**3 > 64:
                        row = (x ^ (y * 2654435761) ^ (z * 805459861)) % 64
                    expected += weight * table[row].detach()
                assert torch.allclose(values[level], expected, atol=1e-3)

    def test_fine_grids_share_small_tables(self):
        grid = HashGrid(levels=4, coarsest=8, finest=512, rows=1 << 12, features=2)
        assert [len(table) for table in grid.tables] == [512, 4096, 4096, 4096]
        rows = hashed(torch.arange(512**3 - 4096, 512**3), 512, 4096)
        assert rows.min() >= 0
        assert rows.max() < 4096
        assert len(rows.unique()) > 2000  # a random map would hit 1 - 1/e of them

    def test_the_field_is_nearly_empty_and_every_parameter_learns(self):
        field = HashField(BOX, 32)
        points = 0.9 * directions(300)
        density, located = field.density(points, None)
        assert (2 * density < 0.7).all()
        colour = field.colour(located, directions(300), None)
        assert ((colour > 0) & (colour < 1)).all()
        (density.sum() + colour.sum()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())
        rated = {id(p) for parameters, _ in field.rates() for p in parameters}
        assert rated == {id(p) for p in field.parameters()}

    @pytest.mark.parametrize("wrong", [{"levels": 1}, {"rows": 100}, {"coarsest": 64, "finest": 32}])
    def test_what_makes_no_grid(self, wrong):
        with pytest.raises(Gen3dError, match="power of 2"):
            HashGrid(**wrong)


class TestPlanes:
    @pytest.mark.parametrize("fusion", ["sum", "product"])
    def test_they_are_read_one_by_one_and_put_together(self, fusion):
        axes, shapes = six_planes(5, 4)
        assert axes == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        planes = Planes(axes, shapes, 3, fusion)
        for number, table in enumerate(planes.tables):
            torch.nn.init.normal_(table, generator=torch.Generator().manual_seed(number))
        places, times = 0.9 * directions(8), torch.linspace(0, 1, 8)
        found = planes(places, times)
        whole = torch.cat([places, (2 * times - 1)[:, None]], 1)
        parts = []
        for table, pair, shape in zip(planes.tables, axes, shapes, strict=True):
            image = table.detach().view(*shape, 3).permute(2, 0, 1)[None]
            at = whole[:, [pair[1], pair[0]]].view(1, 8, 1, 2)  # grid_sample takes the last axis first
            parts.append(torch.nn.functional.grid_sample(image, at, align_corners=True)[0, :, :, 0].T)
        expected = torch.stack(parts).sum(0) if fusion == "sum" else torch.stack(parts).prod(0)
        assert torch.allclose(found, expected, atol=1e-5)

    def test_smoothness_is_of_the_axes_asked_for(self):
        planes = Planes([(0, 3)], [(4, 5)], 1)
        grid = planes.tables[0].data.view(4, 5)
        grid += torch.arange(5.0)  # a slope of 1 in time, nothing in space
        assert planes.smoothness(1, time=True).item() == pytest.approx(1)
        assert planes.smoothness(2, time=True) == 0
        assert planes.smoothness(1, time=False) == 0
        grid += torch.arange(5.0).square()
        assert planes.smoothness(2, time=True).item() == pytest.approx(4)  # second differences are 2


class TestDeformation:
    @pytest.mark.parametrize("fusion", ["sum", "product"])
    def test_nothing_moves_at_the_start(self, fusion):
        deformation = Deformation(4, 3, 5, fusion)
        assert (deformation(directions(6), torch.rand(6)) == 0).all()

    def test_the_projection_is_fixed_orthonormal_and_of_the_sum(self):
        deformation = Deformation(4, 3, 5)
        assert torch.allclose(deformation.weight @ deformation.weight.T, torch.eye(3), atol=1e-6)
        assert not isinstance(deformation.weight, torch.nn.Parameter)
        assert isinstance(Deformation(4, 3, 5, learned=True).weight, torch.nn.Parameter)
        for table in deformation.planes.tables:
            torch.nn.init.normal_(table, generator=torch.Generator().manual_seed(1))
        places, times = 0.9 * directions(6), torch.rand(6)
        assert torch.allclose(
            deformation(places, times), deformation.planes(places, times) @ deformation.weight.T, atol=1e-5
        )

    def test_nothing_is_moved_at_the_canonical_time(self):
        deformation = Deformation(4, 5, 5, still=0.3)
        for table in deformation.planes.tables:
            torch.nn.init.normal_(table)
        places = 0.9 * directions(6)
        assert (deformation(places, torch.full((6,), 0.3)) == 0).all()
        assert (deformation(places, torch.full((6,), 0.8)).abs() > 1e-3).any()


def made(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "hexplane":
        return HexPlaneField(BOX, 6, 4)
    if kind == "kplanes":
        return KPlanesField(BOX, 4, 4, scales=(1, 2), features=8)
    return ShadeField(BOX, 6, make_head("attention", 1), Deformation(4, 4, 5))


@pytest.mark.parametrize("kind", ["shade", "hexplane", "kplanes"])
class TestMovingFields:
    def test_time_counts_and_gradients_reach_everything(self, kind):
        field = made(kind)
        for parameter in field.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
        points, seen = 0.9 * directions(200), directions(200)
        times = torch.rand(200, generator=torch.Generator().manual_seed(2))
        density, located = field.density(points, times)
        colour = field.colour(located, seen, times)
        assert density.shape == (200,)
        assert (density >= 0).all()
        assert (colour >= 0).all()
        assert (colour <= 1).all()
        other, _ = field.density(points, 1 - times)
        assert not torch.allclose(density, other, rtol=1e-3)
        (density.sum() + colour.sum() + sum(field.penalties().values())).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())

    def test_every_parameter_has_a_rate(self, kind):
        field = made(kind)
        rated = [p for parameters, _ in field.rates() for p in parameters]
        assert {id(p) for p in rated} == {id(p) for p in field.parameters()}
        assert len(rated) == len(list(field.parameters()))

    def test_refining_changes_little(self, kind):
        field = made(kind)
        points, times = 0.9 * directions(50), torch.rand(50)
        before, _ = field.density(points, times)
        field.refine(11)  # every old grid point is a new one, too
        assert torch.allclose(field.density(points, times)[0], before, rtol=0.05, atol=1e-3)


def test_a_shade_field_stands_still_before_its_time():
    field = made("shade")
    for table in field.deformation.planes.tables:
        torch.nn.init.normal_(table)
    torch.nn.init.normal_(field.canonical.density_table)
    points, times = 0.9 * directions(20), torch.rand(20)
    still, _ = field.canonical.density(points, None)
    field.progress(0.1)
    assert torch.allclose(field.density(points, times)[0], still)
    field.progress(0.2)
    assert not torch.allclose(field.density(points, times)[0], still)
    places = unit(points, BOX) + field.deformation(unit(points, BOX), times)
    assert torch.allclose(field.density(points, times)[0], field.canonical.density_at(places)[0])
