"""Quality of shapes."""
