"""The Generator, on a tiny real domain: closed forms where the network is untrained, identities elsewhere."""

import dataclasses
import http.server
import json
import os
import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_domain import ENTRY, RingBatch, RingDomain, write_rings

import gen3d
from gen3d import domains
from gen3d.config import to_dict
from gen3d.diffusion.objective import DiffusionConfig
from gen3d.diffusion.samplers import SamplingConfig
from gen3d.domains.base import ChannelGroup, Layout
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.generator_config import GeneratorConfig
from gen3d.nn.transformer import TransformerConfig

MODEL = TransformerConfig(
    channels=3,
    width=32,
    depth=2,
    heads=2,
    classes={"parity": 2},
    scalars=("size",),
    self_conditioning=True,
)


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(domains.TABLE, "toy-ring", ENTRY)


def make(untrained: bool = False, **changes: Any) -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig("toy-ring", MODEL, sampling=SamplingConfig(steps=8))
    generator = Generator(dataclasses.replace(config, **changes)).eval()
    generator.latent_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    generator.latent_std.copy_(torch.tensor([0.5, 1.5, 1.0]))
    if not untrained:
        with torch.no_grad():
            for parameter in generator.core.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return generator


@pytest.fixture
def batches(tmp_path: Path) -> list[RingBatch]:
    domain = RingDomain(RingDomain.Config())
    dataset = domain.dataset(write_rings(tmp_path), "train")
    return [domain.collate([dataset[i] for i in range(k, k + 50)], None) for k in (0, 50, 100)]


def test_fit_latents_equals_statistics_of_all_real_tokens_at_once(batches: list[RingBatch]) -> None:
    generator = make()
    with torch.no_grad():
        generator.codec.encoder.weight[1] = 0  # a channel that is constant
    generator.fit_latents(iter(batches))
    values = np.concatenate([generator.codec.encode(b).x[b.mask].detach().numpy() for b in batches])
    np.testing.assert_allclose(generator.latent_mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(generator.latent_std[[0, 2]], values.std(0)[[0, 2]], rtol=1e-5)
    assert generator.latent_std[1] == 1


def test_channels_of_a_group_share_a_deviation_that_gives_the_groups_scale(batches: list[RingBatch]) -> None:
    generator = make()
    generator.codec.channel_groups = (ChannelGroup(2, 0.5), ChannelGroup(1))
    generator.fit_latents(batches)
    values = np.concatenate([generator.codec.encode(b).x[b.mask].detach().numpy() for b in batches])
    normalised = (values - generator.latent_mean.numpy()) / generator.latent_std.numpy()
    assert generator.latent_std[0] == generator.latent_std[1]
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.sqrt((normalised[:, :2] ** 2).mean()), 0.5, rtol=1e-5)
    np.testing.assert_allclose(normalised[:, 2].std(), 1, rtol=1e-5)


def test_prior_loss_of_an_untrained_core_is_the_second_moment_of_normalised_latents(
    batches: list[RingBatch],
) -> None:
    """The core returns zero, so the x-loss of x-prediction is the mean square of its target."""
    generator = make(untrained=True, diffusion=DiffusionConfig(prediction="x", loss="x"))
    batch = batches[0]
    loss, _ = generator.prior_loss(batch, Draws(0, torch.arange(50)))
    latents = generator.codec.encode(batch).x.detach().numpy()
    normalised = (latents - generator.latent_mean.numpy()) / generator.latent_std.numpy()
    expected = np.mean([(x[m] ** 2).mean() for x, m in zip(normalised, batch.mask.numpy(), strict=True)])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in generator.codec.parameters())


def test_untrained_x_prediction_samples_the_decoded_mean() -> None:
    generator = make(untrained=True)
    mean = generator.codec.decoder(generator.latent_mean).detach().numpy()
    samples = generator.sample(20, progress=False)
    assert {len(s) for s in samples} > {5, 6}
    for sample in samples:
        np.testing.assert_allclose(sample, np.broadcast_to(mean, sample.shape), atol=1e-5)


def test_samples_do_not_depend_on_shard_batch_or_count() -> None:
    generator = make()
    whole = generator.sample(13, seed=3, progress=False)
    assert len({len(s) for s in whole}) > 2
    parts = [generator.sample(13, seed=3, shard=(i, 3), progress=False) for i in range(3)]
    assert [len(p) for p in parts] == [4, 4, 5]
    same(whole, list(chain(*parts)), atol=1e-5)
    same(whole, generator.sample(13, seed=3, batch_size=2, progress=False), atol=1e-5)
    same(whole[:5], generator.sample(5, seed=3, progress=False), atol=1e-5)
    other = generator.sample(13, seed=4, progress=False)
    assert not all(len(a) == len(b) and np.allclose(a, b) for a, b in zip(whole, other, strict=True))
    # One sample a batch: no padding, so nothing may differ in a single bit.
    single = generator.sample(6, seed=3, batch_size=1, progress=False)
    halves = [generator.sample(6, seed=3, batch_size=1, shard=(i, 2), progress=False) for i in range(2)]
    same(single, list(chain(*halves)), atol=0)


def test_valid_samples_are_the_first_of_the_numbered_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against drawing far more than enough and picking; a third or so is called valid here."""
    generator = make()

    def valid(_: RingDomain, points: np.ndarray) -> bool:
        return int(1e4 * abs(points[0, 0])) % 3 == 0

    monkeypatch.setattr(RingDomain, "valid", valid)
    sequence = generator.sample(80, seed=4, steps=2, progress=False)
    places = [i for i, points in enumerate(sequence) if valid(generator.domain, points)]
    found, drawn = generator.sample_valid(9, seed=4, steps=2, progress=False)
    assert drawn == places[8] + 1
    for i, points in zip(places, found, strict=False):
        np.testing.assert_allclose(points, sequence[i], rtol=1e-5, atol=1e-6)
    parts = [generator.sample_valid(9, seed=4, shard=(i, 2), steps=2, progress=False)[0] for i in (0, 1)]
    assert [len(part) for part in parts] == [4, 5]
    assert len({points.tobytes() for part in parts for points in part}) == 9
    monkeypatch.setattr(RingDomain, "valid", lambda *_: False)
    with pytest.raises(Gen3dError, match="of 100 samples only 0 are valid; 2 were asked for"):
        generator.sample_valid(2, steps=1, progress=False)


def test_known_channels_are_kept() -> None:
    generator = make()
    for sampler in ("euler", "heun", "ancestral"):
        samples = generator.sample(5, first_at=(3.0, 0.5), sampler=sampler, progress=False)
        encoded = generator.codec.encoder(torch.tensor([3.0, 0.5]))
        expected = generator.codec.decoder(encoded).detach().numpy()
        for sample in samples:
            np.testing.assert_allclose(sample[0], expected, atol=1e-4)
            assert np.abs(sample[1:] - expected).max() > 1e-2


def test_guidance_leaves_alone_what_the_layout_says(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make()
    whole = RingDomain.layout

    def sampled(guidance: float, *unguided: str) -> np.ndarray:
        def layout(self: RingDomain, options: Any, draws: Draws) -> Layout:
            return dataclasses.replace(whole(self, options, draws), unguided=frozenset(unguided))

        monkeypatch.setattr(RingDomain, "layout", layout)
        return np.stack(generator.sample(3, size=5, guidance=guidance, progress=False))

    plain = sampled(1.0)
    np.testing.assert_array_equal(sampled(4.0, "size", "parity"), plain)
    results = [plain, sampled(4.0), sampled(4.0, "size"), sampled(4.0, "parity")]
    for i, a in enumerate(results):
        for b in results[:i]:
            assert np.abs(a - b).max() > 1e-3


def test_autoguidance_is_a_setting_of_self_conditioned_networks() -> None:
    plain = make()
    guided = make(sampling=SamplingConfig(steps=8, autoguidance=3.0))
    early = make(sampling=SamplingConfig(steps=8, autoguidance=3.0, autoguidance_interval=(0.0, 0.01)))
    a, b, c = (np.stack(g.sample(3, size=5, progress=False)) for g in (plain, guided, early))
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_array_equal(a, c)  # the first step has nothing to remember
    unaware = dataclasses.replace(MODEL, self_conditioning=False)
    with pytest.raises(Gen3dError, match=r"sampling\.autoguidance is 3\.0; it needs self-conditioning"):
        make(
            model=unaware,
            diffusion=DiffusionConfig(self_condition_rate=0.0),
            sampling=SamplingConfig(autoguidance=3.0),
        )


def test_constraints_of_the_layout_hold_for_every_sample_in_any_batching() -> None:
    generator = make()
    samples = generator.sample(9, centre=(-4.0, 7.0), progress=False)
    for sample in samples:
        np.testing.assert_allclose(sample.mean(0), [-4, 7], atol=1e-4)
    same(samples, generator.sample(9, centre=(-4.0, 7.0), batch_size=2, progress=False), atol=1e-4)


def test_settings_override_defaults_and_the_callback_sees_every_step() -> None:
    generator = make()
    seen: list[tuple[int, int]] = []
    callback = lambda state: seen.append((state.step, state.steps))  # noqa: E731
    default = generator.sample(4, size=5, progress=False, callback=callback)
    assert seen == [(i, 8) for i in range(1, 9)]
    assert all(s.shape == (5, 2) for s in default)
    same(default, generator.sample(4, size=5, steps=8, guidance=1.0, sampler="euler", progress=False), atol=0)
    for change in ({"steps": 5}, {"guidance": 3.0}, {"sampler": "heun"}):
        changed = generator.sample(4, size=5, progress=False, **change)
        assert not np.allclose(np.stack(default), np.stack(changed), atol=1e-3)
    assert generator.sample(0, progress=False) == []


def test_a_domain_that_takes_nothing_back_says_so() -> None:
    with pytest.raises(Gen3dError, match="domain 'toy-ring' cannot edit what it has made"):
        make().edit([np.zeros((4, 2))])


def test_sampling_leaves_the_training_mode_alone() -> None:
    generator = make().train()
    generator.sample(2, progress=False)
    assert generator.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (2, 2)}, "shard 2/2"),
        ({"steps": 0}, "steps is 0"),
        ({"sampler": "magic"}, "sampler is 'magic'; allowed: adaptive, ancestral"),
        ({"atoms": 5}, "unknown configuration key 'atoms'; allowed here: centre, first_at, size"),
        ({"size": 12}, "size is 12; allowed: 1 to 9"),
        ({"size": "five"}, "size is 'five'"),
    ],
)
def test_impossible_requests_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Gen3dError, match=message):
        make().sample(2, progress=False, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 4}, r"model\.channels is 4; .* needs 3"),
        ({"classes": {}}, r"model\.classes is {}; .* needs {'parity': 2}"),
        ({"self_conditioning": False}, r"model\.self_conditioning is False"),
    ],
)
def test_transformers_that_do_not_fit_the_domain_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Gen3dError, match=message):
        Generator(GeneratorConfig("toy-ring", dataclasses.replace(MODEL, **changes)))


def test_save_then_load_gives_the_same_generator(tmp_path: Path) -> None:
    generator = make(domain_config={"augment": False})
    generator.codec.histogram.copy_(torch.arange(10.0))
    generator.save_pretrained(tmp_path / "c")
    loaded = gen3d.load(tmp_path / "c", device="cpu")
    assert loaded.config == generator.config
    assert not loaded.training
    assert states_equal(loaded.state_dict(), generator.state_dict())
    same(loaded.sample(6, progress=False), generator.sample(6, progress=False), atol=0)
    assert "gen3d.load" in (tmp_path / "c" / "README.md").read_text()


def test_bf16_checkpoints_round_parameters_and_spare_buffers(tmp_path: Path) -> None:
    generator = make()
    generator.codec.histogram.fill_(1000003)  # not a bf16 number
    generator.save_pretrained(tmp_path / "half", dtype=torch.bfloat16, card="# mine\n")
    generator.save_pretrained(tmp_path / "full")
    half, full = (tmp_path / n / "model.safetensors" for n in ("half", "full"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert (tmp_path / "half" / "README.md").read_text() == "# mine\n"
    loaded = gen3d.load(tmp_path / "half", device="cpu")
    assert torch.equal(loaded.codec.histogram, generator.codec.histogram)
    for a, b in zip(loaded.parameters(), generator.parameters(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2**-8, atol=0)


def test_sources_that_hold_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(Gen3dError, match=r"'nowhere' is no checkpoint folder, no hub id .*toy-ring"):
        gen3d.load("nowhere")
    with pytest.raises(Gen3dError, match="no weights ship for domain 'toy-ring'"):
        gen3d.load("toy-ring")
    with pytest.raises(Gen3dError, match="is no checkpoint folder"):
        gen3d.load(tmp_path / "absent")
    make().save_pretrained(tmp_path / "c")
    with pytest.raises(Gen3dError, match="not 'crystal'"):
        Generator.from_pretrained(tmp_path / "c", domain="crystal")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["domain"] == "toy-ring"
    assert config["model"] == to_dict(MODEL)


def test_hub_repositories_are_fetched_without_their_other_files(tmp_path: Path) -> None:
    """A local server that answers the requests of a download stands in for the hub."""
    generator = make()
    generator.save_pretrained(tmp_path / "repo")
    (tmp_path / "repo" / "malware.py").write_text("raise SystemExit")
    code = (
        "import sys, toy_domain, gen3d\nfrom gen3d import domains, generator\n"
        "domains.TABLE['toy-ring'] = toy_domain.ENTRY\n"
        "print(sorted(p.name for p in generator.locate('me/rings').iterdir()))\n"
        "print(gen3d.load('me/rings', 'cpu').latent_mean.tolist())\n"
        "try: gen3d.load('me/absent')\nexcept gen3d.errors.Gen3dError as e: print('ERROR', e)\n"
    )
    with serve(tmp_path / "repo") as endpoint:
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        lines = run_python(code, **environment).splitlines()
    assert lines[0] == str(["README.md", "config.json", "model.safetensors"])
    assert lines[1] == str(generator.latent_mean.tolist())
    assert lines[2].startswith("ERROR cannot fetch me/absent from the hub")


def test_import_needs_no_torch_and_offers_its_names_lazily() -> None:
    code = (
        "import sys, gen3d, gen3d.checkpoint, gen3d.files\n"
        "print('torch' in sys.modules, gen3d.__version__, sorted(gen3d.__all__))\n"
        "print(gen3d.Generator.__module__, 'torch' in sys.modules, hasattr(gen3d, 'nonsense'))"
    )
    lines = run_python(code).splitlines()
    assert lines[0] == f"False {gen3d.__version__} ['Generator', '__version__', 'load']"
    assert lines[1] == "gen3d.generator True False"


def same(a: list[np.ndarray], b: list[np.ndarray], atol: float) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def states_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run_python(code: str, **environment: str) -> str:
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


class serve:
    """Context manager: the folder as repository "me/rings" of a hub at a local address."""

    def __init__(self, folder: Path) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self, body: bool = True) -> None:
                kind, content = "application/octet-stream", None
                if self.path.startswith("/api/models/me/rings/revision/"):
                    siblings = [{"rfilename": p.name} for p in folder.iterdir()]
                    content = json.dumps({"id": "me/rings", "sha": "a" * 40, "siblings": siblings}).encode()
                    kind = "application/json"
                elif self.path.startswith("/api/models/me/rings/tree/"):
                    entries = [
                        {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "b" * 40}
                        for p in folder.iterdir()
                    ]
                    content, kind = json.dumps(entries).encode(), "application/json"
                elif self.path.startswith(f"/me/rings/resolve/{'a' * 40}/"):
                    content = (folder / self.path.rsplit("/", 1)[1]).read_bytes()
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content or b"")))
                self.send_header("X-Repo-Commit", "a" * 40)
                self.send_header("ETag", '"' + self.path.rsplit("/", 1)[1] + '"')
                self.end_headers()
                if body:
                    self.wfile.write(content or b"")

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
