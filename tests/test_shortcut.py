"""Long steps learnt from two half ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gen3d.checkpoint import fill
from gen3d.diffusion.objective import DiffusionConfig, diffusion_loss, sample_times
from gen3d.diffusion.paths import LinearPath, VariancePreservingPath
from gen3d.diffusion.samplers import ModelDenoiser, Tied, euler, schedule
from gen3d.diffusion.shortcut import MOST_STEPS, Shortcuts
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig
from gen3d.tokens import Ties, Tokens

PLAIN = DiffusionConfig(self_condition_rate=0.0, prediction="v", loss="v", time="uniform")
FEW = replace(PLAIN, shortcut_rate=0.25)
DRAWS = Draws(0, torch.arange(64))


def make(**changes: Any) -> DiffusionTransformer:
    torch.manual_seed(0)
    model = DiffusionTransformer(TransformerConfig(2, 32, 2, 2, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def step_names(model: DiffusionTransformer) -> list[str]:
    return [name for name in model.state_dict() if name.startswith("conditions.step.")]


def tokens(batch: int = 64) -> Tokens:
    x = torch.randn(batch, 3, 2, generator=torch.Generator().manual_seed(1))
    return Tokens(x, torch.ones(batch, 3, dtype=torch.bool))


def test_steps_are_drawn_from_one_to_the_smallest_and_fit_into_the_unit() -> None:
    drawn = Shortcuts.draw(0.5, Draws(0, torch.arange(4000)), torch.device("cpu"))
    assert len(drawn.rows) == pytest.approx(2000, abs=120)
    counts = 1 / drawn.step[drawn.rows]
    assert torch.allclose(counts, counts.round(), atol=1e-3)
    assert counts.min() == 1
    assert counts.max() == pytest.approx(MOST_STEPS, rel=1e-3)
    # Log-uniform: as many below 8 steps as above.
    assert (counts < 8).float().mean() == pytest.approx(0.5, abs=0.05)
    ends = drawn.start + drawn.step[drawn.rows]
    assert ends.max() <= 1 + 1e-6
    places = drawn.start * counts
    assert torch.allclose(places, places.round(), atol=1e-3)


def test_without_shortcuts_the_loss_is_the_ordinary_one() -> None:
    """The very bits, of flow matching written down; a network without `step_input` would refuse a step."""
    model, data = make(), tokens()
    t, noise = sample_times(PLAIN, DRAWS), DRAWS.normal("noise", 3, 2)
    column = t[:, None, None]
    expected = (model(column * data.x + (1 - column) * noise, t, mask=data.mask) - (data.x - noise)).square()
    loss, parts = diffusion_loss(model, data, {}, PLAIN, DRAWS)
    assert torch.equal(parts["per_sample"], expected.mean(-1).sum(1) / 3)
    assert torch.equal(loss, parts["per_sample"].mean())


def test_only_the_drawn_samples_learn_long_steps() -> None:
    old, new = make(), DiffusionTransformer(TransformerConfig(2, 32, 2, 2, step_input=True))
    fill(new, old.state_dict(), "old", step_names(new))
    _, plain = diffusion_loss(old, tokens(), {}, PLAIN, DRAWS)
    _, mixed = diffusion_loss(new, tokens(), {}, FEW, DRAWS)
    ordinary = Shortcuts.draw(FEW.shortcut_rate, DRAWS, torch.device("cpu")).step == 0
    assert torch.equal(plain["per_sample"] == mixed["per_sample"], ordinary)


def test_a_sample_learns_the_same_alone_and_in_a_padded_batch() -> None:
    model = make(step_input=True, self_conditioning=True, classes={"kind": 3}, scalars=("size",))
    config = DiffusionConfig(shortcut_rate=0.5, centred_noise=True, time_shift=2.0)
    sizes, draws = torch.tensor([1, 2, 3, 4] * 6), Draws(3, torch.arange(24))
    mask = torch.arange(6) < sizes[:, None]
    data = Tokens(torch.randn(24, 6, 2) * mask[..., None], mask)
    cond = {"kind": sizes % 3, "size": torch.randn(24)}
    _, whole = diffusion_loss(model, data, cond, config, draws)
    long = Shortcuts.draw(0.5, draws, torch.device("cpu")).step > 0
    assert 0 < long.sum() < 24
    for row, size in enumerate(sizes.tolist()):
        rows = torch.tensor([row])
        alone = Tokens(data.x[rows, :size], mask[rows, :size])
        one = {name: values[rows] for name, values in cond.items()}
        _, part = diffusion_loss(model, alone, one, config, draws.select(rows))
        assert part["per_sample"][0].item() == pytest.approx(whole["per_sample"][row].item(), rel=1e-3)


@pytest.mark.parametrize("prediction", ["x", "v"])
def test_the_target_is_where_two_half_steps_lead(prediction: str) -> None:
    model, path = make(step_input=True), LinearPath()
    x = torch.randn(1, 3, 2)
    shortcuts = Shortcuts(torch.tensor([0]), torch.tensor([0.5]), torch.tensor([0.25]))
    target = {kind: torch.zeros_like(x) for kind in ("x", "eps", "v")}
    t = torch.tensor([0.25])
    shortcuts.put_targets(target, model, x, t, {"step": shortcuts.step}, path, prediction)

    def velocity(y: torch.Tensor, time: float) -> torch.Tensor:
        at = torch.tensor([time])
        output = model(y, at, step=torch.tensor([0.25]))
        return output if prediction == "v" else (output - y) / (1 - time)

    middle = x + 0.25 * velocity(x, 0.25)
    end = middle + 0.25 * velocity(middle, 0.5)
    assert torch.allclose(x + 0.5 * target["v"], end, atol=1e-5)
    # The clean tokens at which that straight step aims, and the noise it comes from.
    assert torch.allclose(target["x"], x + 0.75 * target["v"], atol=1e-5)
    assert torch.allclose(target["eps"], x - 0.25 * target["v"], atol=1e-5)


@pytest.mark.parametrize("prediction", ["x", "v"])
def test_the_target_is_where_two_steps_of_the_sampler_lead(prediction: str) -> None:
    """With padding, tied tokens and a previous prediction: a sampler at 1/4 that goes on to 3/4 and halts."""
    model, path = make(step_input=True, self_conditioning=True), LinearPath()
    mask = torch.tensor([[True, True, True, False]])
    ties = Ties(torch.tensor([[0, 0, 2, 3]]), slice(0, 1))
    x = ties.same(torch.randn(1, 4, 2)) * mask[..., None]
    times = torch.tensor([0.25, 0.5, 0.75])
    shortcuts = Shortcuts(torch.tensor([0]), torch.tensor([0.5]), times[:1])
    target = {kind: torch.zeros_like(x) for kind in ("x", "eps", "v")}
    inputs = {"mask": mask, "cond": {}, "positions": None, "self_cond": torch.zeros_like(x)}
    inputs["step"] = shortcuts.step
    shortcuts.put_targets(target, model, x, times[:1], inputs, path, prediction, ties)
    denoise = Tied(ModelDenoiser(model, path, prediction, mask, times=times), ties)
    end = euler(denoise, x, path, times)
    assert torch.allclose((x + 0.5 * target["v"])[mask], end[mask], atol=1e-5)
    assert torch.equal(target["v"][0, 0, 0], target["v"][0, 1, 0])
    assert not any(values.requires_grad for values in target.values())


def test_the_sampler_tells_its_steps() -> None:
    told = []

    class Spy(DiffusionTransformer):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            told.append((float(args[1][0]), float(kwargs["step"][0])))
            return super().forward(*args, **kwargs)

    model = Spy(TransformerConfig(2, 32, 1, 2, step_input=True))
    times = schedule(4)
    denoise = ModelDenoiser(model, LinearPath(), "v", times=times)
    euler(denoise, torch.randn(1, 3, 2), LinearPath(), times)
    assert told == [(0.0, 0.25), (0.25, 0.25), (0.5, 0.25), (0.75, 0.25)]

    # Steps shorter than any that are learnt count as infinitely small, up to the rounding of times.
    for steps, size in ((MOST_STEPS, 1 / MOST_STEPS), (100, 0.0)):
        told.clear()
        times = schedule(steps)
        euler(replace(denoise, times=times), torch.randn(1, 3, 2), LinearPath(), times)
        assert [step for _, step in told] == pytest.approx([size] * steps, abs=1e-6)


def test_weights_from_before_begin_with_what_they_knew() -> None:
    old, new = make(), DiffusionTransformer(TransformerConfig(2, 32, 2, 2, step_input=True))
    fill(new, old.state_dict(), "old", step_names(new))
    x, t = torch.randn(2, 3, 2), torch.tensor([0.2, 0.9])
    for step in (None, torch.tensor([0.5, 1.0])):
        assert torch.equal(new(x, t, step=step), old(x, t))
    with pytest.raises(Gen3dError, match=r"tensor 'conditions\.step\.\S+' is missing"):
        fill(new, old.state_dict(), "old")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(Gen3dError, match="step_input True, this one has False"):
        make()(torch.randn(1, 3, 2), torch.tensor([0.5]), step=torch.tensor([0.1]))
    with pytest.raises(ValueError, match=r"shortcut_rate is 1\.0"):
        DiffusionConfig(shortcut_rate=1.0)
    with pytest.raises(ValueError, match="linear path only"):
        DiffusionConfig(path=VariancePreservingPath(), shortcut_rate=0.2)


@pytest.mark.slow
def test_one_step_reaches_both_modes_of_a_mixture() -> None:
    """Data are +1 or -1: the first velocity points at neither, so that one plain Euler step lands between."""
    errors = {}
    for rate in (0.0, 0.3):
        torch.manual_seed(0)
        config = replace(PLAIN, shortcut_rate=rate, prediction="x")
        model = DiffusionTransformer(TransformerConfig(1, 32, 1, 2, step_input=rate > 0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(500):
            draws = Draws(step, torch.arange(128))
            x = torch.where(draws.uniform("data", 1, 1) < 0.5, -1.0, 1.0)
            data = Tokens(x, torch.ones(128, 1, dtype=torch.bool))
            optimizer.zero_grad()
            loss, _ = diffusion_loss(model, data, {}, config, draws)
            loss.backward()
            optimizer.step()
        times = schedule(1)
        denoise = ModelDenoiser(model.eval(), LinearPath(), times=times if rate else None)
        noise = torch.randn(500, 1, 1, generator=torch.Generator().manual_seed(2))
        made = euler(denoise, noise, LinearPath(), times)
        errors[rate] = float((made.abs() - 1).abs().mean())
        if rate:
            assert 0.3 < float((made > 0).float().mean()) < 0.7
    assert errors[0.0] > 0.7
    assert errors[0.3] < 0.15


def test_a_run_can_learn_steps_from_a_checkpoint(tmp_path: Path) -> None:
    from gen3d.config import load_yaml, merge
    from gen3d.generator import Generator
    from gen3d.run_config import run_config
    from gen3d.train import train

    root = Path(__file__).parents[1]
    values = load_yaml(root / "configs" / "molecule_debug.yaml")
    data = root / "data" / "tiny" / "qm9.sdf"
    first = train(run_config(values), data, tmp_path / "first", progress=False)
    changes = {"diffusion": {"shortcut_rate": 0.25}, "train": {"steps": 3, "codec_steps": 0}}
    config = run_config(merge(values, changes))
    assert config.model.step_input
    second = train(config, data, tmp_path / "second", init_from=first, progress=False)
    assert len(Generator.from_pretrained(second, "cpu").sample(3, steps=2)) == 3
