"""The flags that verbs gain for coloured things. Imports no torch: `--help` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectOptions:
    """What may be asked of new things."""

    prompt: str | None = None
    """What should be made: "a red armchair". Without it, anything."""
    prompts: str | None = None
    """A text file with a prompt for each thing, line by line, over again when there are more things."""
