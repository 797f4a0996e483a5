"""Lets the torchvision of PyPI be imported beside a torch without CUDA.

Its compiled part is for CUDA and does not load there, so that two operators, which nerfstudio never calls,
are missing when the rest is imported. They are declared here, just before. With a torchvision that matches
torch (that of pytorch.org's index for processors, say) nothing of this is needed.
"""

import importlib.abc
import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                library = torch.library.Library("torchvision", "FRAGMENT")
                for schema in SCHEMAS:
                    library.define(schema)
                torch.torchvision_operators = library  # declared as long as this lives
        return None


sys.meta_path.insert(0, _Declare())
