"""Results in the browser, by viser: `gen3d view PATH...` and `gen3d.viewer.open_page`."""

from gen3d.viewer.page import Page, open_page

__all__ = ["Page", "open_page"]
