"""`gen3d info`: what is installed."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Info:
    """Show versions, devices, installed extras and the checkpoints that come with gen3d."""

    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        from gen3d.info import collect, render

        facts = collect()
        print(json.dumps(facts, indent=2) if self.json else render(facts))
