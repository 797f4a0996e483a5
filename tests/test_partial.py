"""Adapting a trained transformer by its biases, gains and tables alone."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_domain import ENTRY, write_rings

from gen3d import checkpoint, domains
from gen3d.config import merge
from gen3d.errors import Gen3dError
from gen3d.nn.partial import light_parameters
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig
from gen3d.train import RunConfig, run_config, train

VALUES: dict[str, Any] = {
    "domain": "toy-ring",
    "model": {"width": 16, "depth": 2, "heads": 2},
    "train": {
        "batch_size": 16,
        "steps": 6,
        "codec_steps": 2,
        "warmup": 0,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "ema": 0.0,
    },
}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(domains.TABLE, "toy-ring", ENTRY)


def config(model: dict | None = None, **train_values: Any) -> RunConfig:
    return run_config(merge(VALUES, {"model": model or {}, "train": train_values}))


@pytest.mark.parametrize("modulation", ["single", "full"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_biases_gains_and_tables_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], modulation: str, optimizer: str
) -> None:
    data, model = write_rings(tmp_path / "rings", count=60), {"modulation": modulation}
    first = train(config(model), data, tmp_path / "first", progress=False)
    assert "training" not in capsys.readouterr().out
    light = config(model, trainable="biases", codec_steps=0, steps=5, optimizer=optimizer)
    second = train(light, data, tmp_path / "second", init_from=first, progress=False)

    before, after = (checkpoint.read(folder)[0] for folder in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    table = re.compile(r"core\..*(bias|norm_[qk]\.weight|modulation\.table|null|classes\..*\.table\.weight)$")
    assert changed == {name for name in before if table.match(name)}

    core = {name: tensor.numel() for name, tensor in before.items() if name.startswith("core.")}
    trained, total = sum(core[name] for name in changed), sum(core.values())
    printed = f"training {trained:,} of the transformer's {total:,} parameters ({trained / total:.2%})"
    assert printed in capsys.readouterr().out


def test_a_stopped_run_goes_on_with_the_same_parameters(tmp_path: Path) -> None:
    data = write_rings(tmp_path / "rings", count=60)
    first = train(config(), data, tmp_path / "first", progress=False)
    light = {"trainable": "biases", "codec_steps": 0}
    whole = train(config(**light, steps=6), data, tmp_path / "whole", init_from=first, progress=False)
    for steps in (3, 6):
        parts = train(config(**light, steps=steps), data, tmp_path / "parts", init_from=first, progress=False)
    a, b = (checkpoint.read(folder)[0] for folder in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_there_must_be_something_to_adapt(tmp_path: Path) -> None:
    data = write_rings(tmp_path / "rings", count=20)
    with pytest.raises(Gen3dError, match="trainable 'biases' needs a checkpoint"):
        train(config(trainable="biases"), data, tmp_path / "out", progress=False)


def test_the_share_of_dit_3d_is_a_fraction_of_a_percent() -> None:
    """The paper of DiT-3D trains 0.09 M of the 32.8 M of its size S, with DiffFit's scales."""
    shape = TransformerConfig(
        192, 384, 12, 6, norm="layer", mlp="gelu", qk_norm=False, modulation="full", classes={"shape": 1}
    )
    model = DiffusionTransformer(shape)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    biases = 12 * (3 + 1 + 4 + 1 + 6) * 384 + 2 * 384 + 384 + 2 * 384 + 192
    trained = sum(sizes[name] for name in light_parameters(model))
    assert trained == biases + 2 * 384
    assert trained / sum(sizes.values()) < 0.0025
