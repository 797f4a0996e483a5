"""gen3d inside other programs."""
