"""Pictures to be taken: things painted in named colours and put together, with the words that describe
them."""

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from gen3d.captures.render import Light, Pattern
from gen3d.captures.things import Thing
from gen3d.colours import NAMED, names_of, shade_of

COMMON = 0.8
"""Share of the things that are drawn noun by noun, the nouns being equally likely; the others are any."""
TOGETHER = 0.22
"""Share of the pictures with two things."""
SURFACES = ("table", "desk", "cabinet", "stool", "bed", "sofa", "chair", "armchair", "bench", "box", "piano")
SMALL = (
    "lamp", "plant", "flowers", "vase", "bottle", "cup", "bowl", "clock", "computer", "television", "cat",
    "box", "glass", "guitar",
)  # fmt: skip
HELD = ("lamp", "bottle", "guitar", "umbrella", "plant", "cup", "vase")
PEOPLE = ("knight", "mage", "barbarian", "rogue", "man", "woman", "boy", "girl")
NEUTRAL = ("white", "grey", "black", "brown")
FINISHES = {
    "own": 0.25,
    "one": 0.33,
    "two": 0.14,
    "wooden": 0.1,
    "metal": 0.06,
    "glossy": 0.06,
    "striped": 0.06,
}
"""How things are painted, and how often."""
WITHHELD = 10
"""One of so many pairs of a colour and a noun is kept for testing."""
LIGHT = Light(ambient=0.3, direct=0.35, direction=(0.0, -0.6, 0.8))
"""The lamp stands in front, so that a mirrored picture is lit as any other."""
WOOD = ((170, 115, 65), (145, 95, 50), (200, 150, 95), (110, 70, 40))
"""Of wooden things, sRGB."""
GLOSS = {"metal": 0.7, "glossy": 0.5}


@dataclass(frozen=True)
class Picture:
    """What is seen, before cameras are chosen.

    Attributes:
        vertices: (P, 3), within the ball of radius 1.
        faces: (F, 3).
        part: (F,) numbers of parts, each of one colour but for patterns.
        colours: (F, 3) uint8.
        pattern: of the surface, if any.
        light: that shines on it.
        caption: in words, without the view.
        noun: of the main thing.
        colour: its main colour, whether or not the caption tells it.
        told: whether it does.
        other: noun of a second thing, "" for none.
        name: of the model, "" for two together.
    """

    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    colours: np.ndarray
    pattern: Pattern | None
    light: Light
    caption: str
    noun: str
    colour: str
    told: bool
    other: str = ""
    name: str = ""


@dataclass(frozen=True)
class _Painted:
    thing: Thing
    colours: np.ndarray
    words: str
    noun: str
    colour: str
    told: bool
    pattern: Pattern | None
    gloss: float


def withheld(colour: str, noun: str) -> bool:
    """Whether this pair is never told in training, so that prompts of it are new."""
    return crc32(f"{colour} {noun}".encode()) % WITHHELD == 0


class Composer:
    """Draws pictures of things of one split.

    Args:
        things: of that split.
        split: "train", "valid" or "test".
        finishes: how things are painted, and how often.
        together: share of the pictures with two things.
    """

    def __init__(
        self,
        things: list[Thing],
        split: str,
        finishes: Mapping[str, float] = FINISHES,
        together: float = TOGETHER,
    ) -> None:
        self.things, self.split, self.together = things, split, together
        self.finishes = list(finishes)
        self.odds = np.array(list(finishes.values())) / sum(finishes.values())
        self.by_noun: dict[str, list[Thing]] = {}
        for thing in things:
            self.by_noun.setdefault(thing.noun, []).append(thing)
        self.common = sorted({thing.noun for thing in things if thing.common})

    def draw(self, random: np.random.Generator) -> Picture:
        """One picture."""
        if random.random() < self.together:
            found = self._together(random)
            if found is not None:
                return found
        painted = self._paint(self._any(random), random)
        thing = painted.thing
        return Picture(
            thing.vertices,
            thing.faces,
            thing.part,
            painted.colours,
            painted.pattern,
            _light(painted.gloss),
            _with_article(painted.words),
            thing.noun,
            painted.colour,
            painted.told,
            name=thing.name,
        )

    def _any(self, random: np.random.Generator) -> Thing:
        if random.random() < COMMON and self.common:
            return self._of(self.common[random.integers(len(self.common))], random)
        return self.things[random.integers(len(self.things))]

    def _of(self, noun: str, random: np.random.Generator) -> Thing:
        choice = self.by_noun[noun]
        return choice[random.integers(len(choice))]

    def _together(self, random: np.random.Generator) -> Picture | None:
        """Something small on something, in front of somebody, or beside something."""
        kind = random.choice(["on", "with", "next to"], p=[0.6, 0.2, 0.2])
        below = [n for n in (SURFACES if kind == "on" else PEOPLE) if n in self.by_noun]
        above = [n for n in (SMALL if kind == "on" else HELD) if n in self.by_noun]
        if kind == "next to":
            below = above = self.common
        if not below or not above:
            return None
        base = self._paint(self._of(below[random.integers(len(below))], random), random)
        top = self._paint(self._of(above[random.integers(len(above))], random), random)
        if base.noun == top.noun:
            return None
        if kind == "on":
            moved = _on(base.thing, top.thing, random)
            first, second = _with_article(top.words), _with_article(base.words)
            caption = f"{first} on {second}" if random.random() < 0.5 else f"{second} with {first} on it"
        else:
            moved = _beside(base.thing, top.thing, 0.5 if kind == "with" else 0.9, random)
            caption = f"{_with_article(base.words)} {kind} {_with_article(top.words)}"
        if moved is None:
            return None
        vertices = np.concatenate([base.thing.vertices, moved])
        low, high = vertices.min(0), vertices.max(0)
        vertices = (vertices - (low + high) / 2) / (np.linalg.norm(high - low) / 2)
        faces = np.concatenate([base.thing.faces, top.thing.faces + len(base.thing.vertices)])
        part = np.concatenate([base.thing.part, top.thing.part + base.thing.part.max() + 1])
        colours = np.concatenate([base.colours, top.colours])
        return Picture(
            vertices, faces, part, colours, None, LIGHT, caption, base.noun, base.colour, base.told, top.noun
        )

    def _paint(self, thing: Thing, random: np.random.Generator) -> _Painted:
        """A thing in colours, and the words for it. Pairs that are withheld are painted otherwise."""
        while True:
            finish = str(random.choice(self.finishes, p=self.odds))
            colours, main, words = _finish(thing, finish, random)
            noun = thing.noun
            if thing.words and random.random() < 0.25:
                noun = thing.words[random.integers(len(thing.words))]
            told = main in words
            if self.split == "train" and told and withheld(main, thing.noun):
                continue
            pattern = None
            if finish in ("wooden", "striped"):
                pattern = _grain(random) if finish == "wooden" else _stripes(random)
            text = " ".join([words, noun]).strip()
            return _Painted(thing, colours, text, thing.noun, main, told, pattern, GLOSS.get(finish, 0.0))


def _finish(thing: Thing, finish: str, random: np.random.Generator) -> tuple[np.ndarray, str, str]:
    """Colours (F, 3) uint8 of the faces, the name of the main one, and the words that tell of it."""
    shares = thing.shares()
    if finish == "own":
        main = _main_colour(thing)
        return thing.colours, main, main if random.random() < 0.5 else ""
    names = list(NAMED)
    main = (
        "brown" if finish == "wooden" else "grey" if finish == "metal" else names[random.integers(len(names))]
    )
    shade = np.array(WOOD[random.integers(len(WOOD))]) if finish == "wooden" else shade_of(main, random)
    parts = np.stack([shade.astype(float)] * len(shares))
    parts *= random.uniform(0.85, 1.1, (len(shares), 1))
    order = np.argsort(-shares)
    covered = np.concatenate([[0], np.cumsum(shares[order])[:-1]])
    minor = order[covered > random.uniform(0.55, 0.9)]
    words = main
    if finish == "two":
        other = names[random.integers(len(names))]
        minor = order[1:] if len(order) > 1 else minor
        if other != main and len(minor) and shares[minor].sum() > 0.1:
            parts[minor] = shade_of(other, random)
            words = f"{main} and {other}"
    elif finish == "one" and len(minor) and random.random() < 0.6:
        parts[minor] = shade_of(NEUTRAL[random.integers(len(NEUTRAL))], random)
    if finish in ("wooden", "metal"):
        words = finish
    elif finish in ("glossy", "striped"):
        words = f"{finish} {main}"
    return parts[thing.part].clip(0, 255).astype(np.uint8), main, words


def _main_colour(thing: Thing) -> str:
    """The name of most of the surface."""
    corners = thing.vertices[thing.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    named, index = np.unique(names_of(thing.colours), return_inverse=True)
    return str(named[np.bincount(index.reshape(-1), area).argmax()])


def _grain(random: np.random.Generator) -> Pattern:
    """Rings of wood, as of a trunk that leans."""
    axis = random.normal(0, 0.25, 3) + np.array([0, 0, 1.0])
    axis /= np.linalg.norm(axis)
    centre, phase = random.uniform(-0.5, 0.5, 3), random.uniform(0, 6)

    def grain(points: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> np.ndarray:
        away = points - centre
        radius = np.linalg.norm(away - (away @ axis)[:, None] * axis, axis=1)
        rings = np.sin(40 * radius + 3 * np.sin(5 * points[:, 2] + phase))
        return colours * (0.85 + 0.15 * rings)[:, None]

    return grain


def _stripes(random: np.random.Generator) -> Pattern:
    """White stripes across or along."""
    axis, width = random.integers(3), random.uniform(0.15, 0.3)

    def stripes(points: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> np.ndarray:
        white = np.floor(points[:, axis] / width) % 2 == 0
        return np.where(white[:, None], 0.95, colours)

    return stripes


def _light(gloss: float) -> Light:
    return Light(LIGHT.ambient, LIGHT.direct, LIGHT.direction, gloss)


def _on(base: Thing, top: Thing, random: np.random.Generator) -> np.ndarray | None:
    """Vertices of `top`, smaller and standing on what is below the middle of `base`; None where nothing
    is."""
    place = random.uniform(-0.12, 0.12, 2)
    height = _height(base, place)
    if height is None:
        return None
    reach = np.ptp(base.vertices[:, :2], axis=0).min()
    size = (
        random.uniform(0.5, 0.8)
        * max(float(reach), 0.7)
        / max(float(np.ptp(top.vertices, axis=0).max()), 1e-6)
    )
    size = min(size, 0.7)
    moved = top.vertices * size
    return moved + np.array([*place, height - moved[:, 2].min()], np.float32)


def _height(thing: Thing, place: np.ndarray) -> float | None:
    """Where a weight that falls at `place` comes to rest on a thing."""
    a, b, c = (thing.vertices[thing.faces[:, k]].astype(np.float64) for k in range(3))
    one, two, away = b[:, :2] - a[:, :2], c[:, :2] - a[:, :2], place - a[:, :2]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (away[:, 0] * two[:, 1] - away[:, 1] * two[:, 0]) / area
        v = (one[:, 0] * away[:, 1] - one[:, 1] * away[:, 0]) / area
        height = a[:, 2] + u * (b[:, 2] - a[:, 2]) + v * (c[:, 2] - a[:, 2])
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & np.isfinite(height)
    return float(height[hit].max()) if hit.any() else None


def _beside(base: Thing, other: Thing, size: float, random: np.random.Generator) -> np.ndarray:
    """Vertices of `other`, on the same floor to the left or right of `base`."""
    moved = other.vertices * size * random.uniform(0.8, 1.0)
    side = 1 if random.random() < 0.5 else -1
    gap = 0.08
    edge = base.vertices[:, 0].max() + gap - moved[:, 0].min()
    if side < 0:
        edge = base.vertices[:, 0].min() - gap - moved[:, 0].max()
    floor = base.vertices[:, 2].min() - moved[:, 2].min()
    return moved + np.array([edge, 0, floor], np.float32)


def _with_article(words: str) -> str:
    if words.endswith("s") and not words.endswith(("ss", "us")):
        return words  # flowers, glasses
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
