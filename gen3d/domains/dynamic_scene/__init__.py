"""Moving scenes from posed pictures: SHaDe (arXiv 2505.16535), and two rivals from the same parts."""

from gen3d.domains.dynamic_scene.domain import DynamicSceneDomain

__all__ = ["DynamicSceneDomain"]
