"""Molecules and crystals (all-atom diffusion, after ADiT, arXiv 2503.03965)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen3d.domains.atoms.domain import CrystalDomain, MoleculeDomain

__all__ = ["CrystalDomain", "MoleculeDomain"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `options` can be imported without torch.
    if name in __all__:
        from gen3d.domains.atoms import domain

        return getattr(domain, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
