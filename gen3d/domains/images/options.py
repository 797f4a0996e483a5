"""The flags that verbs gain for pictures. Imports no torch: `--help` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageOptions:
    """What may be asked of new pictures."""

    prompt: str | None = None
    """What should be seen: "a red armchair". Without it, anything."""
    prompts: str | None = None
    """A text file with a prompt for each picture, line by line, over again when there are more pictures."""
    azimuth: float | None = None
    """Degrees of the camera about the vertical axis: 0 sees the front, 90 the right side as seen from the
    front, 180 the back. Without it, any."""
    elevation: float | None = None
    """Degrees of the camera above the horizon. Without it, any."""


@dataclass(frozen=True)
class ImagePrepareOptions:
    """How pictures are taken."""

    size: int = 128
    """Of the pictures, in pixels."""
