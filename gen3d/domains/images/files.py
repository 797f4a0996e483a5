"""Files of single pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gen3d.errors import Gen3dError, require


def write_png(objects: Sequence[Any], path: Path) -> None:
    """Write the only one of `objects`, a `PIL.Image.Image`.

    Raises:
        Gen3dError: it is something else.
    """
    (picture,) = objects
    if not isinstance(picture, require("PIL.Image", "scenes").Image):
        raise Gen3dError(f".png holds pictures, not a {type(picture).__name__}")
    picture.save(path, format="PNG")


def read_objects(path: Path, *, failures: bool) -> Iterator[Any]:
    """The picture of a file, before white.

    Raises:
        Gen3dError: it is none, and `failures` is not wanted.
    """
    image = require("PIL.Image", "scenes")
    try:
        with image.open(path) as found:
            picture = found.convert("RGBA")
    except (OSError, SyntaxError) as error:
        if not failures:
            raise Gen3dError(f"{path} is no picture: {error}") from error
        yield None
        return
    white = image.new("RGBA", picture.size, "white")
    yield image.alpha_composite(white, picture).convert("RGB")
