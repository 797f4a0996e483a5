"""What the command line can do: one dataclass a verb; its fields are the flags, its `run` does the work.

Importing them imports nothing heavy, so that `--help` needs no torch.
"""

from gen3d.verbs.evaluate import Evaluate
from gen3d.verbs.export import Export
from gen3d.verbs.info import Info
from gen3d.verbs.prepare import Prepare
from gen3d.verbs.sample import Sample
from gen3d.verbs.train import Train
from gen3d.verbs.view import View

VERBS: dict[str, type] = {
    "sample": Sample,
    "train": Train,
    "evaluate": Evaluate,
    "prepare": Prepare,
    "export": Export,
    "view": View,
    "info": Info,
}
