"""Captioned, posed pictures: the prior that guides text to 3D."""

from gen3d.domains.images.domain import ImageDomain

__all__ = ["ImageDomain"]
