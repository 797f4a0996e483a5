"""Captures: posed images, read, written, made from moving meshes, and checked."""
