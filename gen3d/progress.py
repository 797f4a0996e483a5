"""Progress bars with the time that is left: widgets in Jupyter where there are some, text elsewhere."""

import warnings

with warnings.catch_warnings():
    # Without ipywidgets the bar is text, which is no news for who wants samples.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
