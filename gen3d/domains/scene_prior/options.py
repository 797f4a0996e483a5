"""The flags that `gen3d sample` gains for the prior of moving scenes. Imports no torch: `--help` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScenePriorOptions:
    """Nothing may be asked of new scenes but how many."""
