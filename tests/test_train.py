"""Training, on a tiny real domain: exact resumes, real signals, real processes."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_domain import ENTRY, RingDataset, write_rings

import gen3d
from gen3d import checkpoint, domains
from gen3d.batches import BatchOrder, prefetch
from gen3d.config import load_yaml, merge
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.stage import Stage
from gen3d.train import STATE, RunConfig, _Trainer, run_config, train

VALUES: dict[str, Any] = {
    "domain": "toy-ring",
    "model": {"width": 16, "depth": 1, "heads": 2},
    "train": {
        "batch_size": 16,
        "steps": 24,
        "codec_steps": 10,
        "warmup": 3,
        "schedule": "cosine",
        "log_every": 4,
        "valid_every": 8,
        "valid_samples": 32,
        "learning_rate": 2e-3,
        "precision": "fp32",
    },
}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(domains.TABLE, "toy-ring", ENTRY)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rings(tmp_path_factory.mktemp("rings"), count=100)


def config(**train_values: Any) -> RunConfig:
    return run_config(merge(VALUES, {"train": train_values}))


def quietly(run: RunConfig, data: Path, out: Path, **options: Any) -> Path:
    return train(run, data, out, progress=False, **options)


def stop_after(steps: int, run: RunConfig, data: Path, out: Path, init_from: Path | None = None) -> None:
    """Train a few steps, in the way of a run that a signal stops."""
    asked = iter(range(steps))
    _Trainer(run, data, out, init_from, resume=True).run(lambda: next(asked, None) is None, progress=False)


def metrics(out: Path, *keys: str) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line.get(k) for k in keys) for line in lines]


def same_run(a: Path, b: Path) -> None:
    """Weights, averages, optimizer and curve are equal in every bit."""
    weights = [(out / "checkpoint" / "model.safetensors").read_bytes() for out in (a, b)]
    assert weights[0] == weights[1]
    states = [checkpoint.read_tensors(out / STATE)[0] for out in (a, b)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    keys = ("step", "stage", "loss", "valid_loss", "grad_norm", "lr")
    assert metrics(a, *keys) == metrics(b, *keys)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "batch"), [(1000, 32), (997, 16), (10, 16), (5, 64), (333, 333)])
def test_every_item_comes_once_an_epoch_and_none_is_dropped(items: int, batch: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 30, items)
    order = BatchOrder(sizes, batch, seed=1)
    steps = 16 * max(1, round(3 * items / batch / 16))
    counts = Counter(np.concatenate([order[k] for k in range(steps)]).tolist())
    pool = min(16, max(1, items // batch))
    if steps % pool == 0:  # whole pools: no item may be ahead of another by more than one
        assert max(counts.values()) - min(counts[i] for i in range(items)) <= 1
    assert all(len(order[k]) == batch for k in range(steps))


def test_batches_are_a_pure_function_of_seed_and_step_and_stay_random() -> None:
    sizes = np.random.default_rng(0).integers(1, 21, 2000)
    order, again = BatchOrder(sizes, 32, seed=1), BatchOrder(sizes, 32, seed=1)
    late_first = [again[k].tolist() for k in reversed(range(130))][::-1]
    assert late_first == [order[k].tolist() for k in range(130)]
    assert BatchOrder(sizes, 32, seed=2)[0].tolist() != order[0].tolist()
    # Two items that share a batch in one epoch rarely share one in the next.
    epochs = [{i: k for k in range(e * 62, (e + 1) * 62) for i in order[k].tolist()} for e in range(2)]
    pairs = np.random.default_rng(1).choice(2000, (20_000, 2))
    together = [(e.get(a, -1) == e.get(b, -2)) for e in epochs for a, b in pairs.tolist()]
    first, second = np.array(together).reshape(2, -1)
    assert (first & second).sum() < 0.2 * first.sum()
    # Sizes follow in random order, not from small to large.
    means = [sizes[order[k]].mean() for k in range(62)]
    assert abs(np.corrcoef(np.arange(62), means)[0, 1]) < 0.4


def test_padding_wastes_less_than_a_tenth() -> None:
    rng = np.random.default_rng(0)
    for sizes in (rng.integers(1, 21, 5000), rng.normal(18, 3, 5000).clip(4, 29).astype(int)):
        order = BatchOrder(sizes, 64, seed=0)
        batches = [sizes[order[k]] for k in range(200)]
        waste = 1 - sum(b.sum() for b in batches) / sum(len(b) * b.max() for b in batches)
        shuffled = rng.permutation(sizes)[: 64 * 78].reshape(78, 64)
        assert waste < 0.1 < 1 - shuffled.sum() / (64 * shuffled.max(1)).sum()


def test_prefetch_keeps_order_and_passes_errors_on() -> None:
    def make(step: int) -> int:
        time.sleep(0.001 * (step % 3))
        return 10 // (7 - step)

    stream = prefetch(make, range(20))
    assert [next(stream) for _ in range(7)] == [10 // (7 - k) for k in range(7)]
    with pytest.raises(ZeroDivisionError):
        next(stream)


# --- the configuration --------------------------------------------------------------------------


def test_run_config_fills_in_what_follows_from_the_domain_and_reads_back() -> None:
    run = run_config({"domain": "toy-ring", "model": {"size": "xs", "depth": 2}})
    assert (run.model.width, run.model.depth, run.model.heads) == (256, 2, 4)
    assert (run.model.channels, run.model.classes, run.model.scalars) == (3, {"parity": 2}, ("size",))
    assert run.model.self_conditioning
    assert not run_config(
        {"domain": "toy-ring", "diffusion": {"self_condition_rate": 0}}
    ).model.self_conditioning


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"step": 3}}, "unknown configuration key 'train.step'; allowed here: accumulate"),
        ({"modle": {}}, "unknown configuration key 'modle'"),
        ({"domain_config": {"color": 1}}, "unknown configuration key 'domain_config.color'"),
        ({"train": {"steps": "many"}}, r"train\.steps is 'many'"),
        ({"train": {"codec_steps": 25}}, "codec_steps is 25; allowed: 0 to steps = 24"),
        ({"train": {"ema": 1.0}}, r"ema is 1\.0"),
        ({"model": {"size": "xxl"}}, r"model\.size is 'xxl'; allowed: xs, s"),
        ({"domain": "toy"}, "unknown domain 'toy'"),
    ],
)
def test_wrong_configurations_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Gen3dError, match=message):
        run_config(merge(VALUES, values))


def test_learning_rates_follow_their_closed_form(data: Path, tmp_path: Path) -> None:
    for schedule, at_half, at_last in (
        ("constant", 1.0, 1.0),
        ("linear", 0.5, 1 / 10),
        ("cosine", 0.5, (1 - np.cos(np.pi / 10)) / 2),
    ):
        run = config(schedule=schedule, codec_steps=10, steps=20, warmup=4, learning_rate=2.0)
        trainer = _Trainer(run, data, tmp_path / schedule, None, resume=True)
        stage = Stage("prior", trainer.generator, trainer.trainable, run.train, trainer.accelerator)
        assert stage.rate(15) == pytest.approx(2 * at_half)
        assert stage.rate(19) == pytest.approx(2 * at_last)
        assert trainer.stage.rate(0) == pytest.approx(1e-3 / 4)  # the codec's own warm-up


# --- the loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(3,), (10,), (17,), (1, 8, 11, 1)])
def test_an_interrupted_run_equals_an_uninterrupted_one(data: Path, tmp_path: Path, stops: tuple) -> None:
    run = config()
    quietly(run, data, tmp_path / "whole")
    for steps in stops:
        stop_after(steps, run, data, tmp_path / "parts")
    # A kill may leave a line cut short, and lines of steps that will be taken again.
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:
        file.write('{"step": 23, "loss": 1.0}\n{"step": 24, "lo')
    quietly(run, data, tmp_path / "parts")
    same_run(tmp_path / "whole", tmp_path / "parts")
    quietly(run, data, tmp_path / "parts")  # finished: the same command changes nothing
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_micro_batches_and_prefetching_do_not_change_the_curve(data: Path, tmp_path: Path) -> None:
    quietly(config(), data, tmp_path / "one")
    quietly(config(accumulate=4), data, tmp_path / "four")
    one, four = (np.array(metrics(tmp_path / n, "loss"), dtype=float) for n in ("one", "four"))
    np.testing.assert_allclose(one, four, rtol=2e-4)


def test_the_averages_start_fast_and_the_checkpoint_holds_them(data: Path, tmp_path: Path) -> None:
    """After one update the decay is 1/10: average = 0.1 initial + 0.9 trained."""
    run = config(codec_steps=0)
    torch.manual_seed(0)
    initial = dict(Generator(run.generator()).named_parameters())
    stop_after(1, run, data, tmp_path)
    state, _ = checkpoint.read_tensors(tmp_path / STATE)
    released, _ = checkpoint.read(tmp_path / "checkpoint")
    for name, start in initial.items():
        if name.startswith("core."):
            expected = 0.1 * start.detach() + 0.9 * state[f"model.{name}"]
            torch.testing.assert_close(state[f"average.{name}"], expected)
            assert torch.equal(released[name], state[f"average.{name}"])


def test_training_learns_and_its_checkpoint_samples(data: Path, tmp_path: Path) -> None:
    run = config(steps=150, codec_steps=60, codec_learning_rate=3e-2, learning_rate=5e-3, schedule="constant")
    generator = gen3d.load(quietly(run, data, tmp_path), device="cpu")
    losses = metrics(tmp_path, "stage", "loss")
    codec, prior = ([v for s, v in losses if s == stage and v] for stage in ("codec", "prior"))
    assert codec[-1] < 0.1 * codec[0]
    assert prior[-1] < 0.8 * prior[0]
    # Frozen after its stage: the statistics still describe the latents.
    dataset = generator.domain.dataset(data, "train")
    tokens = generator.codec.encode(generator.domain.collate([dataset[i] for i in range(100)], None))
    values = ((tokens.x - generator.latent_mean) / generator.latent_std)[tokens.mask]
    assert values.mean(0).abs().max() < 0.2  # they were fitted to rings turned at random
    assert (values.std(0) - 1).abs().max() < 0.2
    assert torch.equal(generator.codec.histogram, torch.from_numpy(np.bincount(dataset.sizes)).float())
    centre = np.concatenate(generator.sample(100, steps=20, progress=False)).mean(0)
    np.testing.assert_allclose(centre, [2, -1], atol=0.25)


def test_validation_is_fixed(data: Path, tmp_path: Path) -> None:
    """With steps too small to move any weight, every validation gives the same number."""
    quietly(config(codec_steps=0, learning_rate=1e-30), data, tmp_path)
    values = [v for (v,) in metrics(tmp_path, "valid_loss") if v is not None]
    assert len(values) == 3
    assert len(set(values)) == 1


def test_a_decoder_alone_can_be_trained_on(data: Path, tmp_path: Path) -> None:
    first = quietly(config(), data, tmp_path / "first")
    changes = {"codec_steps": 6, "steps": 6, "decoder_only": True}
    again = quietly(config(**changes), data, tmp_path / "second", init_from=first)
    a, b = (checkpoint.read(folder)[0] for folder in (first, again))
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert changed == {name for name in a if name.startswith("codec.decoder.")}


def test_fine_tuning_starts_from_the_weights_and_statistics(data: Path, tmp_path: Path) -> None:
    first = quietly(config(), data, tmp_path / "first")
    other = write_rings(tmp_path / "other", count=40, seed=9)
    again = quietly(config(codec_steps=0, learning_rate=1e-30), other, tmp_path / "second", init_from=first)
    a, b = (checkpoint.read(folder)[0] for folder in (first, again))
    histogram = next(k for k in a if k.endswith("histogram"))
    assert all(torch.equal(a[k], b[k]) for k in a if k != histogram)
    assert a[histogram].sum() == len(RingDataset(data / "train.npz"))
    assert b[histogram].sum() == len(RingDataset(other / "train.npz"))
    wide = run_config(merge(VALUES, {"model": {"width": 32}}))
    with pytest.raises(Gen3dError, match=r"does not fit its configuration: tensor 'core\."):
        quietly(wide, other, tmp_path / "third", init_from=first)


def test_a_run_from_a_checkpoint_meets_other_noise_than_the_run_that_made_it(
    data: Path, tmp_path: Path
) -> None:
    still = config(codec_steps=0, learning_rate=1e-30)  # no weight moves: equal losses would mean equal noise
    first = quietly(still, data, tmp_path / "first")
    quietly(still, data, tmp_path / "second", init_from=first)
    stop_after(5, still, data, tmp_path / "parts", init_from=first)
    quietly(still, data, tmp_path / "parts")
    losses = [set(metrics(tmp_path / name, "loss")) - {(None,)} for name in ("first", "second")]
    assert not losses[0] & losses[1]
    same_run(tmp_path / "second", tmp_path / "parts")


def test_a_run_of_another_configuration_is_not_resumed_but_can_be_replaced(
    data: Path, tmp_path: Path
) -> None:
    stop_after(2, config(), data, tmp_path)
    assert run_config(load_yaml(tmp_path / "config.yaml")) == config()
    with pytest.raises(Gen3dError, match=r"holds a run with train\.seed = 0, not 5"):
        quietly(config(seed=5), data, tmp_path)
    more = write_rings(tmp_path / "more", count=37)
    with pytest.raises(Gen3dError, match=r"holds a run on \d+ samples, and .*more has 37"):
        quietly(config(), more, tmp_path)
    quietly(config(steps=12, log_every=2), data, tmp_path)  # these may change
    assert checkpoint.read_header(tmp_path / STATE)["step"] == 12
    quietly(config(seed=5, steps=10), data, tmp_path, resume=False)
    assert checkpoint.read_header(tmp_path / STATE)["step"] == 10
    assert max(metrics(tmp_path, "step")) == (10,)


def test_a_loss_that_diverges_ends_the_run_and_keeps_the_last_good_state(data: Path, tmp_path: Path) -> None:
    stop_after(2, config(warmup=0), data, tmp_path)
    good = (tmp_path / STATE).read_bytes()
    path = tmp_path / "broken"
    write_rings(path, count=100)
    with np.load(path / "train.npz") as arrays:
        np.savez(path / "train.npz", sizes=arrays["sizes"], points=arrays["points"] * np.float32(1e30))
    with pytest.raises(Gen3dError, match="not finite by step 4"):
        quietly(config(warmup=0), path, tmp_path)
    assert (tmp_path / STATE).read_bytes() == good


def test_time_limit_and_impossible_batches(data: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    quietly(config(steps=10**6), data, tmp_path / "a", max_minutes=1 / 60)
    assert time.monotonic() - started < 10
    assert 0 < checkpoint.read_header(tmp_path / "a" / STATE)["step"] < 10**6
    with pytest.raises(Gen3dError, match=r"batch_size is 16; it must be a multiple .* 1 x 3"):
        quietly(config(accumulate=3), data, tmp_path / "b")


# --- real processes -----------------------------------------------------------------------------

FORK = multiprocessing.get_context("fork")


def test_kills_at_random_moments_leave_a_state_that_resumes_exactly(data: Path, tmp_path: Path) -> None:
    run = config(checkpoint_minutes=0)  # saves at every step
    quietly(run, data, tmp_path / "whole")
    rng, out, seen = random.Random(0), tmp_path / "killed", -1
    for _ in range(12):
        process = FORK.Process(target=quietly, args=(run, data, out))
        process.start()
        time.sleep(rng.uniform(0.05, 0.6))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if (out / STATE).exists():
            _, header = checkpoint.read_tensors(out / STATE)
            assert header["step"] >= seen
            seen = header["step"]
        if (out / "checkpoint" / "model.safetensors").exists():
            checkpoint.read(out / "checkpoint")
    assert seen > 0
    quietly(run, data, out)
    same_run(tmp_path / "whole", out)
    assert not list(out.rglob("*.tmp.*"))


SCRIPT = """
import json, sys, toy_domain, torch
from accelerate import PartialState
from gen3d import domains
from gen3d.train import run_config, train
torch.set_num_threads(1)
domains.TABLE["toy-ring"] = toy_domain.ENTRY
values, data, out = sys.argv[1:]
print("checkpoint", train(run_config(json.loads(values)), data, out))
print("processes", PartialState().num_processes)
"""


def start(launcher: list[str], script: Path, run: dict, data: Path, out: Path) -> subprocess.Popen:
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), json.dumps(run), str(data), str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_resumes(data: Path, tmp_path: Path, number: int) -> None:
    values = merge(VALUES, {"train": {"steps": 3000, "valid_every": 0}})
    process = start([], tmp_path / "run.py", values, data, tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not metrics(tmp_path / "run", "step"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    step = checkpoint.read_header(tmp_path / "run" / STATE)["step"]
    assert f"stopped after step {step} of 3000; the same command resumes" in output
    assert 0 < step < 3000
    # Where it stopped is a matter of chance, so compare soon after.
    stop_after(5, run_config(values), data, tmp_path / "run")
    stop_after(step + 5, run_config(values), data, tmp_path / "whole")
    same_run(tmp_path / "whole", tmp_path / "run")


def two_processes(values: dict, data: Path, folder: Path, name: str) -> str:
    """Train in two processes; returns what they print."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start(launcher, folder / "run.py", values, data, folder / name)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return output


def same_curve(folder: Path, *names: str) -> None:
    keys = ("step", "loss", "valid_loss", "grad_norm")
    first, *others = (np.array(metrics(folder / name, *keys), dtype=float) for name in names)
    for other in others:
        np.testing.assert_allclose(first, other, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(data: Path, tmp_path: Path) -> None:
    quietly(config(), data, tmp_path / "one")
    output = two_processes(VALUES, data, tmp_path, "two")
    assert output.count("processes 2") == 2
    same_curve(tmp_path, "one", "two")
    gen3d.load(tmp_path / "two" / "checkpoint", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_sharded_transformer_follows_the_curve_of_a_whole_one(
    data: Path, tmp_path: Path, optimizer: str
) -> None:
    """And either takes up what the other saves. A constant rate, for it must not depend on the steps."""
    changes = {"optimizer": optimizer, "codec_steps": 6, "weight_decay": 0.1, "schedule": "constant"}
    half, full = ({**changes, "steps": steps} for steps in (16, 24))
    sharded = [merge(VALUES, {"train": {**part, "shard": True}}) for part in (half, full)]
    quietly(config(**full), data, tmp_path / "one")
    two_processes(sharded[1], data, tmp_path, "sharded")
    two_processes(sharded[0], data, tmp_path, "ended whole")
    quietly(config(**full), data, tmp_path / "ended whole")
    quietly(config(**half), data, tmp_path / "begun whole")
    two_processes(sharded[1], data, tmp_path, "begun whole")
    same_curve(tmp_path, "one", "sharded", "ended whole", "begun whole")
    weights = [checkpoint.read(tmp_path / name / "checkpoint")[0] for name in ("one", "sharded")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_sharding_needs_processes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Gen3dError, match=r"train\.shard is true, but there is one process"):
        quietly(config(shard=True, codec_steps=0), data, tmp_path)
