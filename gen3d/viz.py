"""`show(thing)` in Jupyter: the viewer that the field uses for each kind of native object.

Molecules and crystals are shown by py3Dmol, clouds, meshes and voxels by plotly, scenes as a film around
them. `sheet(things)` is a picture of them instead, which stays in a notebook that nobody runs.
In the browser, without Jupyter, `gen3d view` shows the same objects.
"""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gen3d.domains.atoms.contact_sheet import picture as atoms_picture
from gen3d.domains.atoms.unit_cell import unit_cell
from gen3d.domains.shapes.contact_sheet import picture as shape_picture
from gen3d.errors import Gen3dError, require
from gen3d.fields.cameras import around
from gen3d.media import gif
from gen3d.scenes.scene import Scene

if TYPE_CHECKING:
    import PIL.Image

SIZE = 320
"""Pixels along a side of one object."""
MOST = 9
"""Objects of a list that are shown."""
BLUE = "rgb(90,140,190)"
FILM, FILM_SIZE, FILM_SECONDS = 24, 160, 4.0
"""Pictures of a film around a scene, the pixels along a side of them, and how long it takes."""
ELEVATION, DISTANCE = 20.0, 1.0
"""Degrees from which it looks down, and from how many diagonals of the box."""
TITLE = 20
"""Pixels of a line of words below a picture of a sheet."""
NAMES = ("Mol", "Structure", "PointCloud", "Trimesh", "VoxelGrid", "Image", "Scene")


@dataclass(frozen=True)
class Film:
    """Pictures that a notebook plays."""

    gif: bytes

    def _repr_html_(self) -> str:
        return f'<img src="data:image/gif;base64,{base64.b64encode(self.gif).decode()}">'


def show(thing: Any) -> Any:
    """What Jupyter displays of a native object, or of a list of them.

    Args:
        thing: `rdkit.Chem.Mol`, `pymatgen.core.Structure`, an object of trimesh, a `PIL.Image.Image`, a
            scene; or a list of molecules, crystals or shapes, of which the first nine are shown.

    Returns:
        `py3Dmol.view`, `plotly.graph_objects.Figure`, the picture, or a `Film`.

    Raises:
        Gen3dError: another object, or an empty list.
        MissingExtra: the viewer is not installed; the message names the extra.
    """
    things = list(thing) if isinstance(thing, (list, tuple)) else [thing]
    things = [each for each in things if each is not None][:MOST]
    if not things:
        raise Gen3dError("there is nothing to show: the list is empty, or all samples failed")
    kinds = {kind_of(each) for each in things}
    if kinds <= {"Mol", "Structure"}:
        return _atoms(things)
    if kinds <= {"PointCloud", "Trimesh", "VoxelGrid"}:
        return figure(things)
    if len(things) > 1:
        raise Gen3dError(f"{len(things)} objects of kinds {', '.join(sorted(kinds))}; show them one by one")
    return things[0] if kinds == {"Image"} else film(things[0])


def sheet(
    things: Any, titles: Sequence[str] = (), *, columns: int | None = None, size: int = 200
) -> "PIL.Image.Image":
    """A picture of molecules, crystals, shapes or pictures, row by row; failed ones (None) stay white.

    Args:
        things: native objects, or one of them; shapes share one scale, that of the box from -1 to 1.
        titles: a line below each of the first, as many as there are; what is too long ends in "…".
        columns: pictures in a row; by default about as many as rows.
        size: width and height of each, in pixels.

    Raises:
        Gen3dError: an object of which there is no picture, an empty list, or more titles than objects.
        MissingExtra: what draws them is not installed; the message names the extra.
    """
    image = require("PIL.Image", "shapes")
    draw = require("PIL.ImageDraw", "shapes")
    font = require("PIL.ImageFont", "shapes").load_default(13)
    things = list(things) if isinstance(things, (list, tuple)) else [things]
    if not things:
        raise Gen3dError("there is nothing to show: the list is empty")
    if len(titles) > len(things):
        raise Gen3dError(f"{len(titles)} titles for {len(things)} objects; allowed: one for each")
    across = columns or math.ceil(math.sqrt(len(things)))
    line = TITLE if titles else 0
    made = image.new("RGB", (across * size, math.ceil(len(things) / across) * (size + line)), "white")
    for number, thing in enumerate(things):
        left, top = number % across * size, number // across * (size + line)
        if thing is not None:
            made.paste(_small(thing, size), (left, top))
        if number < len(titles):
            words, middle = str(titles[number]), (left + size / 2, top + size + line / 2)
            while font.getlength(words) > size:
                words = words.removesuffix("…")[:-1] + "…"
            draw.Draw(made).text(middle, words, "black", font, "mm")
    return made


def _small(thing: Any, size: int) -> "PIL.Image.Image":
    """A picture of one object, `size` pixels wide and high."""
    image = require("PIL.Image", "shapes")
    kind = kind_of(thing)
    if kind in ("Mol", "Structure"):
        return image.fromarray(atoms_picture(thing, size))
    if kind in ("PointCloud", "Trimesh", "VoxelGrid"):
        return image.fromarray(shape_picture(thing, size))
    if kind == "Image":
        return thing.convert("RGB").resize((size, size))
    raise Gen3dError(f"a {kind} is in no sheet; render it first, and give the picture")


def kind_of(thing: Any) -> str:
    """One of `NAMES`.

    Raises:
        Gen3dError: the object is of none of them.
    """
    for kind in type(thing).__mro__:
        if kind.__name__ in NAMES:
            return kind.__name__
    raise Gen3dError(f"a {type(thing).__name__} cannot be shown; allowed: {', '.join(NAMES)}")


def _atoms(things: Sequence[Any]) -> Any:
    py3dmol = require("py3Dmol", "viewer")
    across = math.ceil(math.sqrt(len(things)))
    down = math.ceil(len(things) / across)
    view = py3dmol.view(width=SIZE * across, height=SIZE * down, viewergrid=(down, across), linked=False)
    for number, thing in enumerate(things):
        place = (number // across, number % across)
        if kind_of(thing) == "Mol":
            from rdkit import Chem

            view.addModel(Chem.MolToMolBlock(thing), "sdf", viewer=place)
        else:
            view.addModel(str(thing.to(fmt="cif")), "cif", viewer=place)
            view.addUnitCell(viewer=place)
        view.setStyle({"stick": {"radius": 0.12}, "sphere": {"scale": 0.28}}, viewer=place)
        view.zoomTo(viewer=place)
    return view


def figure(things: Sequence[Any]) -> Any:
    """A `plotly.graph_objects.Figure` of molecules, crystals and shapes side by side, +y up.

    What py3Dmol draws needs its script from the web; a figure of plotly is whole in itself.

    Raises:
        Gen3dError: other objects.
    """
    plotly = require("plotly.graph_objects", "viewer")
    subplots = require("plotly.subplots", "viewer")
    across = math.ceil(math.sqrt(len(things)))
    down = math.ceil(len(things) / across)
    cells = [[{"type": "scene"}] * across for _ in range(down)]
    made = subplots.make_subplots(down, across, specs=cells, horizontal_spacing=0.01, vertical_spacing=0.01)
    traces: dict[str, Callable[[Any], list[Any]]] = {
        "Mol": lambda mol: _molecule(plotly, mol),
        "Structure": lambda crystal: _crystal(plotly, crystal),
        "PointCloud": lambda cloud: [_cloud(plotly, cloud)],
        "Trimesh": lambda mesh: [_mesh(plotly, mesh)],
        "VoxelGrid": lambda grid: [_mesh(plotly, grid.as_boxes())],
    }
    for number, thing in enumerate(things):
        kind = kind_of(thing)
        if kind not in traces:
            raise Gen3dError(f"a {kind} is no part of a figure; allowed: {', '.join(traces)}")
        for trace in traces[kind](thing):
            made.add_trace(trace, number // across + 1, number % across + 1)
    eye = {"x": 1.3, "y": 0.9, "z": 1.9}
    made.update_scenes(
        aspectmode="data", xaxis_visible=False, yaxis_visible=False, zaxis_visible=False,
        camera={"up": {"x": 0, "y": 1, "z": 0}, "eye": eye},
    )  # fmt: skip
    margin = dict.fromkeys("lrtb", 0)
    return made.update_layout(width=SIZE * across, height=SIZE * down, margin=margin, showlegend=False)


def _molecule(plotly: Any, mol: Any) -> list[Any]:
    places = np.array(mol.GetConformer().GetPositions())
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], int).reshape(-1, 2)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return [_lines(plotly, places[bonds], "rgb(120,120,120)", 6), _balls(plotly, places, numbers)]


def _crystal(plotly: Any, crystal: Any) -> list[Any]:
    numbers, fractions, edges = unit_cell(crystal)
    places = fractions @ np.array(crystal.lattice.matrix)
    return [_lines(plotly, edges, "black", 2), _balls(plotly, places, numbers)]


def _balls(plotly: Any, places: np.ndarray, numbers: np.ndarray) -> Any:
    from ase.data import chemical_symbols, covalent_radii
    from ase.data.colors import jmol_colors

    colours = [f"rgb({r},{g},{b})" for r, g, b in (255 * jmol_colors[numbers]).astype(int)]
    line = {"color": "rgb(60,60,60)", "width": 1}
    marker = {"size": 6 + 8 * covalent_radii[numbers], "color": colours, "opacity": 1.0, "line": line}
    x, y, z = places.T
    names = [chemical_symbols[number] for number in numbers]
    return plotly.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, text=names, hoverinfo="text")


def _lines(plotly: Any, ends: np.ndarray, colour: str, width: float) -> Any:
    """Lines between pairs of places (N, 2, 3)."""
    gaps = np.full((len(ends), 1, 3), np.nan)
    x, y, z = np.concatenate([ends, gaps], 1).reshape(-1, 3).T
    line = {"color": colour, "width": width}
    return plotly.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip")


def _cloud(plotly: Any, cloud: Any) -> Any:
    x, y, z = np.asarray(cloud.vertices).T
    own = np.asarray(cloud.colors) if len(cloud.colors) == len(x) else None
    colour = y if own is None else [f"rgb({r},{g},{b})" for r, g, b in own[:, :3]]
    marker = {"size": 2, "color": colour, "colorscale": "Blues_r"}
    return plotly.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, hoverinfo="skip")


def _mesh(plotly: Any, mesh: Any) -> Any:
    x, y, z = np.asarray(mesh.vertices).T
    i, j, k = np.asarray(mesh.faces).T
    colours: dict[str, Any] = {"color": BLUE}
    if mesh.visual.kind == "vertex":
        colours = {"vertexcolor": np.asarray(mesh.visual.vertex_colors)[:, :3]}
    elif mesh.visual.kind == "face":
        colours = {"facecolor": np.asarray(mesh.visual.face_colors)[:, :3]}
    light = {"ambient": 0.5, "diffuse": 0.7, "specular": 0.1}
    return plotly.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k, flatshading=True, lighting=light, hoverinfo="skip", **colours
    )


def film(scene: Scene) -> Film:
    """Pictures around a scene, which moves meanwhile if it does."""
    share = torch.arange(FILM) / FILM
    low, high = scene.field.box.cpu()
    middle: Any = tuple(((low + high) / 2).tolist())
    away = float((high - low).norm()) * DISTANCE
    turn, rise = share * 360 - 90, torch.full((FILM,), ELEVATION)
    shots = around(turn, rise, radius=away, target=middle, width=FILM_SIZE, height=FILM_SIZE)
    seen = [scene.at(float(share[view])).render(shots, view).colour[..., :3] for view in range(FILM)]
    return Film(gif(seen, FILM_SECONDS))
