"""Things to be pictured: meshes with colours by part, and the words for them."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gen3d import sweethome
from gen3d.captures.meshes import EXTENSIONS, Y_TO_Z, MeshSequence, read_meshes
from gen3d.errors import Gen3dError
from gen3d.fetch import RemoteFile, cache_folder, fetch

MOST_FACES = 60_000
"""Models of more triangles are left out: they take long and look no better in a small picture."""
POSES = 8
"""Frames taken of a sequence that moves."""
FLAT = re.compile(
    r"plug|switch|socket|parking|bill|arrow|rails|crossing|detector|sign|newspaper|ruler|text marker"
    r"|thermometer|intercom|bell ring|speech unit|frame|door|window|carpet|bathmat|doormat|rug|sidewalk"
    r"|calendar|tatami|railing|bathroom|living room|keys|comb"
)
"""Names of models that are too flat, small or many-sided to be recognised."""
GENERIC: dict[str, str] = {
    "armchair": r"armchair",
    "rocking horse": r"rocking horse",
    "stool": r"stool|puff|ottoman",
    "lamp": r"lamp|lantern|chandelier|fluorescent|spotlight|(wall|street|park|hanging|porch|track) lights?",
    "chair": r"chair|class seat",
    "toilet": r"toilets? unit",
    "bench": r"bench",
    "bed": r"\bbeds?\b|crib|futon$",
    "sofa": r"sofa|couch",
    "desk": r"desk",
    "fan": r"\bfan\b",
    "ping-pong table": r"table tennis$",
    "table": r"table(?!cloth|t\b| tennis)|workbench",
    "bookcase": r"bookcase|shelves",
    "wardrobe": r"wardrobe",
    "cabinet": r"cabinet|cupboard|dresser|vanity|chest$|safe$|locker",
    "refrigerator": r"fridge|refrigerator|freezer",
    "stove": r"oven|stove|cooker",
    "washing machine": r"washing machine|dryer",
    "television": r"\btv\b(?! stand| remote)|television",
    "piano": r"piano$",
    "bathtub": r"bathtub|^bath$|island bath|jacuzzi",
    "sink": r"washbasin|^sink|basin|lavatory",
    "tree": r"tree|pine|palm|poplar|maple|beech|cypress|acacia|blossom",
    "plant": r"plant|bush|ficus|bamboo|yucca|spathiphyllum|cactus|orchid|succulent|hedge",
    "flowers": r"flower|tulip|lily",
    "bottle": r"bottle|flacon",
    "cup": r"\bcup\b|mug",
    "glass": r"\bglass$",
    "vase": r"vase|pottery|\bjar\b",
    "bowl": r"^bowl",
    "bicycle": r"bicycle|^bike|tricycle",
    "scooter": r"scooter",
    "motorbike": r"motorbike|yamaha",
    "bus": r"\bbus\b",
    "truck": r"truck|fork lift",
    "car": r"\bcar\b|van$|sedan|beetle|focus|leon|peugeot|renault|suv|chevrolet",
    "boy": r"boy",
    "girl": r"girl",
    "woman": r"female|woman$",
    "man": r"\bmale|\bman\b",
    "cat": r"\bcat$",
    "dog": r"^dog$|bulldog",
    "horse": r"^horse",
    "clock": r"clock",
    "trash can": r"trash ?can|dustbin|recycling bin",
    "umbrella": r"umbrella",
    "guitar": r"guitar",
    "box": r"^box|crate|cardboard",
    "computer": r"imac|ibook|laptop",
}
"""Common words, and the patterns of names that they stand for, looked up in this order."""


@dataclass(frozen=True)
class Thing:
    """Something to be pictured; +z is up, -y the front, and the ball around its box has radius 1.

    Attributes:
        name: of the model.
        noun: the common word for it.
        words: other words that fit.
        vertices: (P, 3) float32.
        faces: (F, 3) int64.
        part: (F,) int64, numbers of parts.
        colours: (F, 3) uint8.
        split: "train" or "test".
        common: whether it is to be pictured as often as any other common word.
    """

    name: str
    noun: str
    words: tuple[str, ...]
    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    colours: np.ndarray
    split: str = "train"
    common: bool = True

    def shares(self) -> np.ndarray:
        """(parts,) of the surface."""
        corners = self.vertices[self.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        found = np.bincount(self.part, area)
        return found / max(found.sum(), 1e-12)


def read_things(source: str, progress: bool) -> list[Thing]:
    """Things of sources that are separated by commas.

    Args:
        source: `sweethome3d` (fetched) or its package as a file; or a folder of meshes that
            `gen3d.captures.meshes.read_meshes` reads, with a `captions.csv` of rows file, words; words for
            one thing are separated by "|", the common one first. Without it the names of the files tell.
        progress: show the progress of downloads.

    Raises:
        Gen3dError: there is no such source, or nothing of use in it.
    """
    found = [thing for name in source.split(",") for thing in _things(name.strip(), progress)]
    if not found:
        raise Gen3dError(f"{source} holds nothing that can be pictured")
    return found


def of_split(things: list[Thing], split: str) -> list[Thing]:
    """Those held back for testing, or, for "train" and "valid", the others."""
    return [thing for thing in things if (thing.split == "test") == (split == "test")]


def _things(source: str, progress: bool) -> Iterator[Thing]:
    path = Path(source)
    if source == "sweethome3d":
        fetch(sweethome.FILE, cache_folder(source), progress)
        return _furniture(cache_folder(source) / sweethome.FILE.name)
    if path.suffix == ".deb" and path.is_file():
        fetch(RemoteFile(path.name, sweethome.FILE.url), path.parent, progress)
        return _furniture(path)
    if path.is_dir():
        return _folder(path)
    raise Gen3dError(f"no source of pictures {source!r}: neither sweethome3d nor a folder of meshes")


def _furniture(path: Path) -> Iterator[Thing]:
    test = sweethome.held_out()
    for identity, name, model in sweethome.read_coloured(path):
        plain = re.sub(r"[\d/:,]+.*", "", name.lower()).strip()
        if FLAT.search(plain) or len(model.faces) > MOST_FACES or not plain.isascii():
            continue
        noun = next((word for word, pattern in GENERIC.items() if re.search(pattern, plain)), plain)
        vertices = model.vertices @ Y_TO_Z.T
        split = "test" if identity in test else "train"
        common = noun in GENERIC
        yield _thing(identity, (noun, plain), vertices, model.faces, model.part, model.colours, split, common)


def _folder(path: Path) -> Iterator[Thing]:
    captions = _captions(path)
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in (".npz", *EXTENSIONS))
    missing = sorted(set(captions) - {f.name for f in files})
    if missing:
        raise Gen3dError(f"captions.csv of {path} names {missing[0]}, which is not there")
    for file in files:
        words = captions.get(file.name) or (re.sub(r"[\W\d_]+", " ", file.stem).strip() or "thing",)
        yield from _poses(file, words, read_meshes(file))


def _poses(file: Path, words: tuple[str, ...], sequence: MeshSequence) -> Iterator[Thing]:
    count = min(POSES, len(sequence))
    for number in np.linspace(0, len(sequence) - 1, count).round().astype(int):
        mesh = sequence.frames[number]
        by_face = len(mesh.colours) == len(mesh.faces) and len(mesh.colours) != len(mesh.vertices)
        colours = mesh.colours if by_face else mesh.colours[mesh.faces[:, 0]]
        part = np.unique(colours, axis=0, return_inverse=True)[1].reshape(-1)
        yield _thing(f"{file.stem}#{number}", words, mesh.vertices, mesh.faces, part, colours)


def _captions(path: Path) -> dict[str, tuple[str, ...]]:
    file = path / "captions.csv"
    if not file.is_file():
        return {}
    found = {}
    with open(file, newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if len(row) != 2 or not row[1].strip():
                raise Gen3dError(f"line {number} of {file} is {row}; expected a file and its words")
            found[row[0].strip()] = tuple(word.strip() for word in row[1].split("|"))
    return found


def _thing(
    name: str,
    words: tuple[str, ...],
    vertices: np.ndarray,
    faces: np.ndarray,
    part: np.ndarray,
    colours: np.ndarray,
    split: str = "train",
    common: bool = True,
) -> Thing:
    low, high = vertices.min(0), vertices.max(0)
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-9)
    placed = ((vertices - (low + high) / 2) / radius).astype(np.float32)
    noun, others = words[0], tuple(word for word in words[1:] if word != words[0])
    return Thing(name, noun, others, placed, np.asarray(faces, np.int64), part, colours, split, common)
