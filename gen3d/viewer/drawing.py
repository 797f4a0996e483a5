"""Molecules, crystals, clouds, meshes, voxels and pictures as parts of a page.

Every kind of object is a `Picture` of points, from which its size is known, and of a function that adds it to
a scene of viser.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gen3d.domains.atoms.unit_cell import CORNERS, unit_cell
from gen3d.errors import Gen3dError, require

BALL, STICK = 0.35, 0.12
"""Radius of atoms, as a share of their covalent radius plus 0.5 Angstrom, and of bonds, in Angstrom."""
TOUCHING = 1.15
"""Times the sum of two covalent radii: atoms of a crystal that are nearer count as bonded."""
APART = {1: (0.0,), 2: (-1.0, 1.0), 3: (-1.5, 0.0, 1.5)}
"""Sticks of a bond by its order, beside the line between the atoms, in radii of a stick."""
GREY = (150, 170, 190)
UPRIGHT = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)
"""Turns +y up into +z up."""
FLAT = (1.0, 0.0, 0.0, 0.0)
WIDE = 2.0
"""Of a picture, along its longer side."""


@dataclass(frozen=True)
class Drawing:
    """An object that can be put onto a page.

    Attributes:
        points: (P, 3), the corners of its box, or more.
        add: adds it under a name of the scene tree.
        turn: quaternion (w, x, y, z) that sets it upright.
    """

    points: np.ndarray
    add: Callable[[Any, str], None]
    turn: tuple[float, float, float, float] = FLAT


def drawing(thing: Any, *, cells: int = 1, y_up: bool = True) -> Drawing:
    """Any native object but a scene.

    Args:
        thing: `rdkit.Chem.Mol`, `pymatgen.core.Structure`, an object of trimesh or a `PIL.Image.Image`.
        cells: along each side of a crystal.
        y_up: whether +y is up in shapes, as in glTF, and not +z.

    Raises:
        Gen3dError: another object.
    """
    kinds: dict[str, Callable[[], Drawing]] = {
        "Mol": lambda: _molecule(thing),
        "Structure": lambda: _crystal(thing, cells),
        "PointCloud": lambda: _cloud(thing, UPRIGHT if y_up else FLAT),
        "Trimesh": lambda: _mesh(thing, UPRIGHT if y_up else FLAT),
        "VoxelGrid": lambda: _voxels(thing, UPRIGHT if y_up else FLAT),
        "Image": lambda: _picture(thing),
    }
    for kind in type(thing).__mro__:
        if kind.__name__ in kinds:
            return kinds[kind.__name__]()
    raise Gen3dError(f"a {type(thing).__name__} cannot be shown; allowed: {', '.join(kinds)}, or a scene")


def _molecule(mol: Any) -> Drawing:
    positions = mol.GetConformer().GetPositions()
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    orders = [{"DOUBLE": 2, "TRIPLE": 3}.get(str(b.GetBondType()), 1) for b in mol.GetBonds()]
    balls = np.array(positions), numbers, np.array(bonds, int).reshape(-1, 2), np.array(orders, int)
    return Drawing(positions, lambda scene, name: _add_atoms(scene, name, *balls))


def _crystal(structure: Any, cells: int) -> Drawing:
    from ase.data import covalent_radii

    lattice = np.array(structure.lattice.matrix)
    shifts = np.stack(np.meshgrid(*3 * [np.arange(cells)], indexing="ij"), -1).reshape(-1, 3)
    numbers, own, edges = unit_cell(structure)
    positions = (own[None] + shifts[:, None]).reshape(-1, 3) @ lattice
    numbers = np.tile(numbers, len(shifts))
    radii = covalent_radii[numbers]
    bonds = _near(positions, radii)
    outline = np.concatenate([positions, cells * CORNERS @ lattice])

    def add(scene: Any, name: str) -> None:
        _add_atoms(scene, name, positions, numbers, bonds, np.ones(len(bonds), int))
        lines = (edges[None] + (shifts @ lattice)[:, None, None]).reshape(-1, 2, 3)
        scene.add_line_segments(f"{name}/cell", lines.astype(np.float32), (90, 90, 90), thickness=0.03)

    return Drawing(outline, add)


def _near(positions: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(B, 2) pairs of atoms that touch."""
    tree = require("scipy.spatial", "atoms").cKDTree(positions)
    pairs = tree.query_pairs(2 * TOUCHING * float(radii.max()), output_type="ndarray")
    away = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    return pairs[(away < TOUCHING * radii[pairs].sum(1)) & (away > 0.1)]


def _add_atoms(
    scene: Any,
    name: str,
    positions: np.ndarray,
    numbers: np.ndarray,
    bonds: np.ndarray,
    orders: np.ndarray,
) -> None:
    """Balls and sticks, in the colours that Jmol has for elements; each half of a stick in its atom's."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    trimesh = require("trimesh", "viewer")
    colours = (jmol_colors[numbers] * 255).astype(np.uint8)
    ball = trimesh.creation.icosphere(subdivisions=3)
    still = np.tile(np.array(FLAT), (len(positions), 1))
    sizes = BALL * (covalent_radii[numbers] + 0.5)
    scene.add_batched_meshes_simple(
        f"{name}/atoms", ball.vertices, ball.faces, still, positions,
        batched_scales=sizes.astype(np.float32), batched_colors=colours, lod="off",
    )  # fmt: skip
    if not len(bonds):
        return
    ends, shades, radii = _sticks(positions, colours, bonds, orders)
    stick = trimesh.creation.cylinder(radius=1.0, height=1.0, sections=14)
    along = ends[:, 1] - ends[:, 0]
    length = np.linalg.norm(along, axis=1)
    scene.add_batched_meshes_simple(
        f"{name}/bonds", stick.vertices, stick.faces, _turns(along / length[:, None]), ends.mean(1),
        batched_scales=np.stack([radii, radii, length], 1).astype(np.float32), batched_colors=shades,
        lod="off",
    )  # fmt: skip


def _sticks(
    positions: np.ndarray, colours: np.ndarray, bonds: np.ndarray, orders: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends (S, 2, 3), colours (S, 3) and radii (S,) of half sticks."""
    centre = positions.mean(0)
    ends, shades, radii = [], [], []
    for (first, second), order in zip(bonds, orders, strict=True):
        a, b = positions[first], positions[second]
        # Beside the bond, in the plane with the middle of the molecule.
        side = np.cross(b - a, np.cross(b - a, centre - (a + b) / 2) + 1e-6)
        side /= max(np.linalg.norm(side), 1e-9)
        radius = STICK if order == 1 else STICK / 2
        for step in APART[int(order)]:
            shift, middle = 2 * radius * step * side, (a + b) / 2
            ends += [(a + shift, middle + shift), (middle + shift, b + shift)]
            shades += [colours[first], colours[second]]
            radii += [radius, radius]
    return np.array(ends), np.array(shades), np.array(radii)


def _turns(directions: np.ndarray) -> np.ndarray:
    """(N, 4) quaternions that turn +z into unit vectors (N, 3)."""
    x, y, z = directions.T
    found = np.stack([1 + z, -y, x, np.zeros_like(z)], 1)
    found[z < -0.999999] = (0.0, 1.0, 0.0, 0.0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _cloud(cloud: Any, turn: tuple[float, float, float, float]) -> Drawing:
    points = np.asarray(cloud.vertices, np.float32)
    known = np.asarray(cloud.colors) if len(cloud.colors) == len(points) else None
    extent = float(np.ptp(points, axis=0).max()) if len(points) else 1.0
    if known is None:
        # Shaded by height, so that depth is seen.
        share = (points[:, 1] - points[:, 1].min()) / max(float(np.ptp(points[:, 1])), 1e-9)
        known = (np.array([[40.0, 90, 160]]) + share[:, None] * np.array([[150.0, 110, 60]])).astype(np.uint8)
    size = 0.6 * extent / max(len(points), 1) ** 0.5

    def add(scene: Any, name: str) -> None:
        scene.add_point_cloud(
            f"{name}/points", points, known[:, :3], point_size=size, point_shape="circle", precision="float32"
        )

    return Drawing(points, add, turn)


def _mesh(mesh: Any, turn: tuple[float, float, float, float]) -> Drawing:
    coloured = mesh.visual.kind is not None

    def add(scene: Any, name: str) -> None:
        if coloured:
            scene.add_mesh_trimesh(f"{name}/mesh", mesh)
        else:
            scene.add_mesh_simple(f"{name}/mesh", mesh.vertices, mesh.faces, color=GREY, side="double")

    return Drawing(np.asarray(mesh.bounds), add, turn)


def _voxels(grid: Any, turn: tuple[float, float, float, float]) -> Drawing:
    box = require("trimesh", "viewer").creation.box()
    points = np.asarray(grid.points)
    scale = np.asarray(grid.scale, np.float32)

    def add(scene: Any, name: str) -> None:
        still = np.tile(np.array(FLAT), (len(points), 1))
        sizes = np.tile(0.96 * scale, (len(points), 1))
        scene.add_batched_meshes_simple(
            f"{name}/voxels", box.vertices, box.faces, still, points,
            batched_scales=sizes, batched_colors=GREY, flat_shading=True, lod="off",
        )  # fmt: skip

    return Drawing(np.asarray(grid.bounds), add, turn)


def _picture(picture: Any) -> Drawing:
    pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    size = WIDE / max(height, width)
    half = np.array([width * size / 2, height * size / 2, 0.01])

    def add(scene: Any, name: str) -> None:
        scene.add_image(f"{name}/picture", pixels, width * size, height * size, format="png")

    # viser's pictures lie in the xy plane with +y down; they are set up to face -y.
    return Drawing(np.stack([-half, half]), add, (np.sqrt(0.5), -np.sqrt(0.5), 0.0, 0.0))
