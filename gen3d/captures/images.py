"""Files of pictures: read whole or not at all, written whole or not at all."""

from pathlib import Path

import numpy as np

from gen3d.errors import Gen3dError, require
from gen3d.files import atomic_write

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_image(path: Path) -> tuple[np.ndarray, bool]:
    """A picture (H, W, 4) uint8 with straight alpha, and whether the file has alpha.

    Raises:
        Gen3dError: the file is missing, damaged or no picture.
        MissingExtra: pillow is not installed.
    """
    image = require("PIL.Image", "scenes")
    if not path.is_file():
        raise Gen3dError(f"{path} is missing")
    try:
        with image.open(path) as picture:
            picture.load()
            alpha = "A" in picture.getbands() or "transparency" in picture.info
            if picture.mode.startswith("I"):
                # Pillow would clip 16 bits to 8 instead of scaling them.
                wide = np.asarray(picture).astype(np.float64) / 65535
                picture = image.fromarray(np.rint(np.clip(wide, 0, 1) * 255).astype(np.uint8))
            return np.array(picture.convert("RGBA")), alpha
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's readers raise about anything for a damaged file.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Gen3dError(f"{path} is no readable picture: {reason[0][:200]}") from error


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write pixels (H, W, 3 or 4) uint8 as a PNG file.

    Raises:
        Gen3dError: the file cannot be written.
        MissingExtra: pillow is not installed.
    """
    image = require("PIL.Image", "scenes")
    with atomic_write(path) as temporary:
        image.fromarray(pixels).save(temporary, format="PNG")
