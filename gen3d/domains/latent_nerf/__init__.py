"""Text to 3D: Latent-NeRF, Sketch-Shape and Latent-Paint."""

from gen3d.domains.latent_nerf.domain import LatentNeRFDomain

__all__ = ["LatentNeRFDomain"]
