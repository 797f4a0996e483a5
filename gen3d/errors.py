"""What goes wrong through no fault of the code: the user's mistakes and missing extras.

The command line prints a `Gen3dError` as one line and exits with status 2; everything else is a bug
and keeps its traceback.
"""

import importlib
from types import ModuleType
from typing import Any


class Gen3dError(Exception):
    """A mistake the user can mend. The message names the offending value and what is allowed."""


class MissingExtra(Gen3dError, ImportError):
    """An optional dependency is not installed."""


class TooFewValid(Gen3dError):
    """Fewer valid samples were found than asked for.

    Attributes:
        found: the valid ones.
        drawn: how many samples were drawn.
    """

    def __init__(self, found: list[Any], drawn: int, wanted: int) -> None:
        super().__init__(f"of {drawn} samples only {len(found)} are valid; {wanted} were asked for")
        self.found, self.drawn = found, drawn


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises:
        MissingExtra: naming the `pip install` command, when the module is absent.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise MissingExtra(f'{top} is not installed: pip install "gen3d[{extra}]"') from error
