"""Coloured things from words."""

from gen3d.domains.objects.domain import ObjectDomain

__all__ = ["ObjectDomain"]
