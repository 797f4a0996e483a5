"""The version of gen3d; `pyproject.toml` reads it from here."""

__version__ = "0.1.0"
