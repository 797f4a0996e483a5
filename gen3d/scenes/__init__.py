"""Scenes: fields fitted to captures, kept with what rendering them needs."""
