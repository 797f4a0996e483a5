"""Names of colours: the eleven basic terms of English (Berlin and Kay, 1969), told apart in CIELAB."""

import numpy as np

NAMED: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((215, 30, 35), (150, 20, 25)),
    "orange": ((240, 130, 25),),
    "yellow": ((245, 215, 40),),
    "green": ((45, 155, 60), (25, 95, 40), (130, 195, 70)),
    "blue": ((35, 85, 205), (25, 45, 120), (90, 165, 230)),
    "purple": ((125, 50, 165),),
    "pink": ((240, 135, 180),),
    "brown": ((120, 75, 40), (85, 55, 35)),
    "black": ((25, 25, 25),),
    "white": ((245, 245, 245),),
    "grey": ((130, 130, 130),),
}
"""Examples of each colour, sRGB; whatever is nearest to one of them has its name."""
WHITE = np.array([0.95047, 1.0, 1.08883])
"""CIE XYZ of the white of sRGB, D65."""
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) of sRGB (..., 3) from 0 to 255: lightness from 0 to 100, and two axes of hue."""
    scaled = np.asarray(rgb, np.float64) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


_EXAMPLES = [(name, lab(np.array(rgb))) for name, examples in NAMED.items() for rgb in examples]


def names_of(rgb: np.ndarray) -> np.ndarray:
    """Names (...) of sRGB colours (..., 3) from 0 to 255: that of the nearest example in CIELAB."""
    places = np.stack([place for _, place in _EXAMPLES])
    names = np.array([name for name, _ in _EXAMPLES])
    distance = np.linalg.norm(lab(rgb)[..., None, :] - places, axis=-1)
    return names[distance.argmin(-1)]


def shade_of(name: str, random: np.random.Generator) -> np.ndarray:
    """A random colour (3,), sRGB from 0 to 255, that has this name."""
    examples = NAMED[name]
    while True:
        middle = np.array(examples[random.integers(len(examples))])
        drawn = (middle + random.normal(0, 14, 3)).clip(0, 255)
        if names_of(drawn) == name:
            return drawn
