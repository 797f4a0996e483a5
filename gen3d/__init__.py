"""gen3d: generate molecules and crystals with one latent-diffusion transformer.

    import gen3d
    molecules = gen3d.load("molecule").sample(10)

Importing the package imports no torch; the first use of a name below does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gen3d.version import __version__

if TYPE_CHECKING:
    from gen3d.generator import Generator
    from gen3d.loading import load

__all__ = ["Generator", "__version__", "load"]

_HOME = {"Generator": "gen3d.generator", "load": "gen3d.loading"}


def __getattr__(name: str) -> Any:
    if name == "viz":
        return import_module("gen3d.viz")
    if name not in _HOME:
        raise AttributeError(f"module 'gen3d' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
