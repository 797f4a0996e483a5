"""Which choices matter: small models, alike but for one choice, trained for equally many minutes of one core.

python benchmarks/ablations.py configs/molecule.yaml --data data/qm9 --out benchmarks/molecule_ablations.json

Every variant is a quarter of the configuration's transformer, trained for the given minutes, on the codec of
the shipped checkpoint, or, where the variant changes the codec, on one of its own that is trained before for
a fixed number of steps. Samples are measured against the validation split; the test split is not looked at.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gen3d import checkpoint
from gen3d.config import load_yaml, merge
from gen3d.draws import Draws
from gen3d.files import atomic_write
from gen3d.generator import Generator
from gen3d.locate import locate
from gen3d.run_config import RunConfig, run_config
from gen3d.train import STATE, train

SMALL = {
    "model": {"width": 128, "depth": 4, "heads": 4},
    "train": {"warmup": 50, "ema": 0.995, "checkpoint_minutes": 60.0},
}
BATCH = {"shape": 16}
STEPS_OF_A_CODEC = 1500
PROBE = 100
ADAMW = {"train": {"optimizer": "adamw", "learning_rate": 0.001}}
PUBLISHED_NETWORK = {
    "domain_config": {"shape": {"network": {"density": False, "sparse": False, "head_width": 0}}},
    "model": {"norm": "layer", "mlp": "gelu", "qk_norm": False, "modulation": "full", "positions": "sincos"},
}
# A quarter of the published 1,000 steps: all of them would take longer than the training.
PUBLISHED_NOISE = {
    "diffusion": {
        "path": {"kind": "variance_preserving", "schedule": "linear", "steps": 1000},
        "prediction": "eps",
        "loss": "eps",
        "time": "uniform",
    },
    "sampling": {"steps": 250, "sampler": "ancestral"},
}
NO_SELF_CONDITIONING = {"diffusion": {"self_condition_rate": 0.0}, "sampling": {"autoguidance": 1.0}}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "molecule": {
        "default": {},
        "adamw": ADAMW,
        "no self-conditioning": NO_SELF_CONDITIONING,
        "no autoguidance": {"sampling": {"autoguidance": 1.0}},
        "random rotations": {"domain_config": {"canonical_frame": False}},
        "noise paired at random": {"diffusion": {"coupling": "independent"}},
        "no distances": {"model": {"positions": "none", "axes": 0, "position_channels": 0}},
        "content as large as geometry": {"domain_config": {"codec": {"content_scale": 1.0}}},
        "earlier times": {"diffusion": {"time_mean": 0.0, "time_std": 1.0}},
        "velocity predicted": {"diffusion": {"prediction": "v"}},
        "hydrogens as tokens": {"domain_config": {"codec": {"hydrogen_channels": 0}}},
    },
    "crystal": {
        "default": {},
        "adamw": ADAMW,
        "no self-conditioning": NO_SELF_CONDITIONING,
        "elements decided late": {"domain_config": {"codec": {"content_scale": 0.5}}},
        "noise paired at random": {"diffusion": {"coupling": "independent"}},
        "no distances": {"model": {"positions": "none", "axes": 0, "position_channels": 0}},
    },
    "shape": {
        "default": {},
        "published recipe": {**PUBLISHED_NETWORK, **PUBLISHED_NOISE, **ADAMW},
        "published network": PUBLISHED_NETWORK,
        "published noise": PUBLISHED_NOISE,
        "adamw": ADAMW,
    },
}
MEASURES = {
    "molecule": ("validity", "uniqueness", "atom_stability", "molecule_stability", "validity_edm"),
    "crystal": (
        "validity",
        "structure_validity",
        "composition_validity",
        "composition_uniqueness",
        "element_count_w1",
    ),
    "shape": ("1nna_cd", "cov_cd", "mmd_cd", "jsd"),
}
# Copies of training shapes cost most of the time of measuring shapes, and minutes of training make none.
REFERENCE = {"shape": "valid.npz"}
CHECKS: dict[str, dict[str, Any]] = {"shape": {"emd": "none"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--variants", nargs="*", help="names of some variants; default all")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    values = merge(load_yaml(arguments.config), SMALL)
    values["train"]["batch_size"] = BATCH.get(values["domain"], 128)
    variants = VARIANTS[values["domain"]]
    torch.set_num_threads(1)

    report = {
        "config": str(arguments.config),
        "minutes_each": arguments.minutes,
        "samples": arguments.samples,
        "threads": 1,
        "variants": {},
    }
    if arguments.out.is_file():
        report["variants"] = json.loads(arguments.out.read_text())["variants"]
    for name in arguments.variants or variants:
        with tempfile.TemporaryDirectory() as folder:
            changed = merge(values, variants[name])
            run = train_for(changed, arguments.data, arguments.minutes, Path(folder))
            found = measure(run, values["domain"], arguments.data, arguments.samples)
            report["variants"][name] = {"steps": trained_steps(run), **found}
        print(name, json.dumps(report["variants"][name]), flush=True)
        with atomic_write(arguments.out) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


def train_for(values: dict[str, Any], data: str, minutes: float, folder: Path) -> Path:
    """The run folder of a model trained for so many minutes of one core, its rate at zero when they end."""
    start, codec_steps = begin(values, data, folder / "start")
    if codec_steps:
        codec = merge(values, {"train": {"codec_steps": codec_steps, "steps": codec_steps}})
        start = train_whole(codec, data, folder / "codec", start)
    # Some steps tell how many there will be: the rate must be at zero when the minutes are over.
    probe = merge(values, {"train": {"codec_steps": 0, "steps": PROBE}})
    # Processor time, and not that on the clock, which other work on the machine would lengthen.
    since = time.process_time()
    train_whole(probe, data, folder / "probe", start)
    steps = int(PROBE * 60 * minutes / (time.process_time() - since))
    train_whole(merge(probe, {"train": {"steps": steps}}), data, folder / "run", start)
    return folder / "run"


def train_whole(values: dict[str, Any], data: str, folder: Path, start: Path) -> Path:
    """The checkpoint of a training to its last step; a signal that stops the training ends the program."""
    made = train(run_config(values), data, folder, init_from=start, progress=False)
    if checkpoint.read_header(folder / STATE)["step"] < values["train"]["steps"]:
        raise SystemExit("stopped; variants that were done are in the report")
    return made


def trained_steps(run: Path) -> int:
    """Steps of the transformer."""
    settings = load_yaml(run / "config.yaml")["train"]
    return int(settings["steps"] - settings["codec_steps"])


def measure(run: Path, domain: str, data: str, samples: int) -> dict[str, float | None]:
    """What samples of a trained model are like, beside the validation split."""
    generator = Generator.from_pretrained(run / "checkpoint", "cpu", domain=domain)
    made = generator.sample(samples, seed=0, progress=False)
    reference = generator.domain.reference(Path(data) / REFERENCE.get(domain, ""), "valid")
    metrics = generator.domain.metrics(made, reference, workers=1, **CHECKS.get(domain, {}))
    found = {m.name: m.value for m in metrics}
    return {name: found[name] for name in MEASURES[domain]}


def begin(values: dict[str, Any], data: str, folder: Path) -> tuple[Path, int]:
    """A checkpoint with an untrained transformer; and how many steps its codec must still be trained."""
    config: RunConfig = run_config(values)
    torch.manual_seed(0)
    generator = Generator(config.generator())
    tensors, shipped = checkpoint.read(locate(config.domain))
    own = generator.state_dict()
    codec = {name: tensor for name, tensor in tensors.items() if name.startswith("codec.")}
    fits = all(name in own and own[name].shape == tensor.shape for name, tensor in codec.items())
    frame = "canonical_frame"  # a decoder knows the orientations it was trained on
    fits &= shipped["domain_config"].get(frame) == config.domain_config.get(frame)
    if fits:
        for name, tensor in codec.items():
            own[name].copy_(tensor)
        dataset = generator.domain.dataset(data, "train")
        index = torch.arange(min(2048, len(dataset)))
        batch = generator.domain.collate([dataset[i] for i in index.tolist()], Draws(0, index))
        generator.fit_latents([batch])
    generator.save_pretrained(folder)
    return folder, 0 if fits else STEPS_OF_A_CODEC


if __name__ == "__main__":
    main()
