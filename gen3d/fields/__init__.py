"""Differentiable scenes, and how to see them: cameras, volume rendering, grids and planes, in plain torch."""
