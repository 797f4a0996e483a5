"""Many moving scenes of a few: other motions, proportions, parts and things carried."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gen3d.captures.meshes import MeshSequence
from gen3d.errors import require

FRAMES = 16
"""Instants, at even times from 0 to 1, at which a scene of the prior is known."""
SHORTEST = 0.35
"""Of the stretch of a sequence that becomes a scene, as a share of it."""
CALMEST, WILDEST = 0.4, 1.2
"""Factors of how far everything moves from where it is on average."""
DROPPED = 0.15
"""Chance of a part to be left out."""
CARRIED = 2
"""Things that are added, at most."""
TURN = 10.0
"""Standard deviation of the turn about the vertical axis, degrees."""
STRETCH = 0.15
"""Largest change of the logarithm of a side."""
WARP = 0.06
"""Size of the bending of space."""


@dataclass(frozen=True)
class Surface:
    """A surface that moves.

    Attributes:
        vertices: (T, V, 3) float32.
        faces: (F, 3) int64.
        colours: (V, 3) uint8.
        parts: (V,) int64, numbers of what is connected.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    parts: np.ndarray


def surface_of(sequence: MeshSequence) -> Surface:
    """All frames of a sequence whose faces stay the same."""
    first = sequence.frames[0]
    vertices = np.stack([frame.vertices for frame in sequence.frames]).astype(np.float32)
    colours = first.colours
    if len(colours) != len(first.vertices):  # of faces: every face gets vertices of its own
        vertices, colours = vertices[:, first.faces.ravel()], np.repeat(colours, 3, 0)
        faces = np.arange(len(colours)).reshape(-1, 3)
        return Surface(vertices, faces, colours, _parts(vertices[0], faces))
    return Surface(vertices, first.faces, colours, _parts(vertices[0], first.faces))


def _parts(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Numbers of the connected pieces, the largest being 0; vertices at one place count as one."""
    sparse = require("scipy.sparse", "scenes")
    _, place = np.unique(np.round(vertices, 4), axis=0, return_inverse=True)
    place = place.reshape(-1)
    edges = place[np.concatenate([faces[:, :2], faces[:, 1:]])]
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(place.max() + 1,) * 2)
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    label = label[place]
    order = np.argsort(-np.bincount(label))
    return np.argsort(order)[label]


def vary(surfaces: Sequence[Surface], random: np.random.Generator) -> Surface:
    """A new scene of `FRAMES` instants.

    Parts of one body may follow different sequences of it (arms that cheer on legs that run), stretches of
    time are chosen and reversed, motions made smaller or larger, parts left out, simple things added to
    parts, and space is bent, stretched, mirrored and turned.

    Args:
        surfaces: sequences; those of equal faces are one body in different motions.
        random: decides.

    Returns:
        The scene; its box, over all instants, lies in [-1, 1]^3.
    """
    body = surfaces[int(random.integers(len(surfaces)))]
    same = [s for s in surfaces if np.array_equal(s.faces, body.faces)]
    vertices = _played(body, random)
    if len(same) > 1 and random.random() < 0.6:
        other = _played(same[int(random.integers(len(same)))], random)
        vertices = _mixed(vertices, other, body.parts, random)
    mean = vertices.mean(0)
    vertices = mean + random.uniform(CALMEST, WILDEST) * (vertices - mean)
    scene = _without_some(replace(body, vertices=vertices), random)
    for _ in range(random.integers(CARRIED + 1)):
        scene = _with_something(scene, random)
    scene = replace(scene, vertices=_placed(scene.vertices, random))
    return _mirrored(scene) if random.random() < 0.5 else scene


def _played(surface: Surface, random: np.random.Generator) -> np.ndarray:
    """(FRAMES, V, 3): a stretch of a sequence, forwards or backwards."""
    last = len(surface.vertices) - 1
    length = random.uniform(SHORTEST, 1)
    start = random.uniform(0, 1 - length)
    times = last * np.linspace(start, start + length, FRAMES)
    if random.random() < 0.5:
        times = times[::-1]
    before = np.minimum(times.astype(int), max(last - 1, 0))
    share = (times - before)[:, None, None].astype(np.float32)
    after = np.minimum(before + 1, last)
    return (1 - share) * surface.vertices[before] + share * surface.vertices[after]


def _mixed(base: np.ndarray, other: np.ndarray, parts: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`base`, some parts of which move as in `other`, carried along with the largest part."""
    chosen = np.isin(parts, np.flatnonzero(random.random(parts.max() + 1) < 0.5)) & (parts != 0)
    trunk = parts == 0
    mixed = base.copy()
    for frame, (to, of) in enumerate(zip(base, other, strict=True)):
        turn, shift = _rigid(of[trunk], to[trunk])
        mixed[frame, chosen] = of[chosen] @ turn.T + shift
    return mixed


def _rigid(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation (3, 3) and shift (3,) that bring points (P, 3) nearest to others (Kabsch)."""
    a, b = source.mean(0), target.mean(0)
    u, _, vt = np.linalg.svd((source - a).T @ (target - b))
    sign = np.sign(np.linalg.det(u @ vt))
    turn = (u * np.array([1, 1, sign])) @ vt
    return turn.T, b - a @ turn


def _without_some(scene: Surface, random: np.random.Generator) -> Surface:
    """Without some parts, never the largest."""
    gone = np.flatnonzero(random.random(scene.parts.max() + 1) < DROPPED)
    kept = ~np.isin(scene.parts, gone[gone > 0])
    number = np.cumsum(kept) - 1
    faces = number[scene.faces[kept[scene.faces].all(1)]]
    return Surface(scene.vertices[:, kept], faces, scene.colours[kept], scene.parts[kept])


def _with_something(scene: Surface, random: np.random.Generator) -> Surface:
    """With a ball, box, cone or stick on a place of some part, moving as that part does."""
    on = random.choice(np.unique(scene.parts))
    own = scene.vertices[:, scene.parts == on]
    thing = _thing(random)
    size = 0.5 * np.exp(random.uniform(-1.2, 0.2))
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))  # no mirror image, which would be inside out
    anchor = own[0, random.integers(own.shape[1])]
    placed = (size * np.asarray(thing.vertices)) @ turn + anchor
    moved = np.empty((len(own), len(placed), 3), np.float32)
    for frame, points in enumerate(own):
        rotation, shift = _rigid(own[0], points)
        moved[frame] = placed @ rotation.T + shift
    colour = random.integers(0, 256, 3).astype(np.uint8)
    return Surface(
        np.concatenate([scene.vertices, moved], 1),
        np.concatenate([scene.faces, np.asarray(thing.faces) + scene.vertices.shape[1]]),
        np.concatenate([scene.colours, np.tile(colour, (len(placed), 1))]),
        np.concatenate([scene.parts, np.full(len(placed), scene.parts.max() + 1)]),
    )


def _thing(random: np.random.Generator) -> Any:
    creation = require("trimesh", "scenes").creation
    kind = random.integers(4)
    if kind == 0:
        return creation.icosphere(subdivisions=2, radius=0.4)
    if kind == 1:
        return creation.box(extents=random.uniform(0.2, 1, 3))
    if kind == 2:
        return creation.cone(radius=random.uniform(0.2, 0.6), height=1, sections=16)
    return creation.cylinder(radius=random.uniform(0.03, 0.08), height=2, sections=8)


def _mirrored(scene: Surface) -> Surface:
    """Left and right exchanged; outside stays outside."""
    vertices = scene.vertices * np.array([-1, 1, 1], np.float32)
    return replace(scene, vertices=vertices, faces=scene.faces[:, ::-1].copy())


def _placed(vertices: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Bent, stretched, turned, and put somewhere into [-1, 1]^3."""
    low, high = vertices.min((0, 1)), vertices.max((0, 1))
    vertices = (vertices - (low + high) / 2) / ((high - low).max() / 2)
    waves, phases = random.uniform(1, 3, (3, 3)), random.uniform(0, 2 * np.pi, (3, 3))
    bent = [
        np.sin(vertices @ waves[axis] + phases[axis].sum()) * WARP * random.uniform(0, 1) for axis in range(3)
    ]
    vertices = (vertices + np.stack(bent, -1)) * np.exp(random.uniform(-STRETCH, STRETCH, 3))
    angle = np.radians(TURN) * random.normal()
    cos, sin = np.cos(angle), np.sin(angle)
    vertices = vertices @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    low, high = vertices.min((0, 1)), vertices.max((0, 1))
    vertices = (vertices - (low + high) / 2) * (2 * random.uniform(0.8, 1) / (high - low).max())
    room = 1 - vertices.max((0, 1))
    return (vertices + room * random.uniform(-0.5, 0.5, 3)).astype(np.float32)
