"""A latent diffusion prior over moving scenes, which helps to fit one to few pictures (SHaDe)."""

from gen3d.domains.scene_prior.domain import ScenePriorDomain

__all__ = ["ScenePriorDomain"]
