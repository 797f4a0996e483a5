"""Which parameters to train when a trained transformer is adapted to little data."""

from torch import nn

from gen3d.nn.embeddings import ClassEmbedding, StepEmbedding


def light_parameters(model: nn.Module) -> set[str]:
    """Names of the biases, norm gains, modulation tables and class tables: the small share that adapts.

    Everything of one dimension, the class embeddings, and what tells step sizes, which begins at zero
    (BitFit, arXiv 2106.10199; DiffFit, arXiv 2304.06648). DiffFit's scales after attention and
    feed-forward are no parameters of their own here: the biases and tables of the modulation move the
    gates that stand in the same place.
    """
    light = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    for prefix, module in model.named_modules():
        if isinstance(module, ClassEmbedding | StepEmbedding):
            light |= {f"{prefix}.{name}" for name, _ in module.named_parameters()}
    return light
