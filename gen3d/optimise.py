"""Runs that fit one scene: what `gen3d.train` is for transformers.

A run folder holds `config.yaml`, `metrics.jsonl`, `curves.png`, `checkpoint/` (what `gen3d.load` reads),
`state.safetensors` (what a resume reads) and, where a scene can be drawn quickly, `preview.png`. The same
command resumes exactly where it stopped.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import yaml

from gen3d import domains
from gen3d.config import load_yaml, to_dict
from gen3d.curves import draw_training, drawn
from gen3d.domains.base import Fitting, SceneDomain
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write
from gen3d.generator import Generator
from gen3d.progress import tqdm
from gen3d.run_config import check_same_run
from gen3d.scenes.distil import STABLE
from gen3d.train import STATE, stop_signal

SAVE_EVERY = 60.0
"""Seconds of fitting between saves."""
DRAWN_EVERY = 15.0
"""Seconds of fitting between previews."""
MEASURED = 10
"""How many times in a run, evenly, its quality is measured and written down."""
CANDIDATES = 8
"""Things that are made of a prompt, of which a field begins as one."""


def optimise(
    config: Any,
    data: str | Path | None,
    out: str | Path,
    *,
    max_minutes: float | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Fit a scene to a capture, or go on with the fit that `out` holds.

    Ctrl-C and SIGTERM save and return; a second Ctrl-C aborts.

    Args:
        config: the `RunConfig` of a `SceneDomain`.
        data: the capture, or whatever else the scene starts from; None where it starts from nothing.
        out: the run folder.
        max_minutes: of fitting, all parts of the run together. Learning rates and grid sizes follow whichever
            of steps and minutes is used up first, so that a short run is a whole one.
        resume: False starts over where `out` already holds a run.
        progress: show a progress bar, if the error stream is a terminal, and lines with what is measured;
            draw `curves.png` at the end.

    Returns:
        The checkpoint folder.

    Raises:
        Gen3dError: unusable configuration, capture or run folder, or a fit that diverged.
    """
    if max_minutes is not None and not 0 < max_minutes < math.inf:
        raise Gen3dError(f"max_minutes is {max_minutes}; it must be above 0")
    out = Path(out)
    cls = domains.find(config.domain)
    if not issubclass(cls, SceneDomain):
        raise Gen3dError(f"domain {config.domain!r} fits no scenes; see gen3d.train")
    going_on = resume and (out / STATE).exists()
    if going_on:
        check_same_run(load_yaml(out / "config.yaml"), to_dict(config), out)
    asked = getattr(config, "prior", None)
    prior = None if asked is None else read_prior(asked.checkpoint)
    run = cls.fitting(config, None if data is None else Path(data), prior)
    if going_on:
        run.restore(out / STATE)
    else:
        _begin(run, config)
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.jsonl").unlink(missing_ok=True)
        with atomic_write(out / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
    limit = None if max_minutes is None else 60 * max_minutes
    try:
        with stop_signal() as stopped:
            _advance(run, out, limit, stopped.is_set, progress)
    finally:
        # After an error, too: the step that failed was not taken.
        run.save(out / STATE)
        run.write(out / "checkpoint")
        run.preview(out / "preview.png")
        if progress:
            drawn(draw_training, out)
    return out / "checkpoint"


def _begin(run: Any, config: Any) -> None:
    """What comes before the first step: a mesh to begin as, made of the prompt, where one is asked for."""
    start = getattr(config, "start", "")
    if start:
        run.begin_as(made_of(config.prompt, start, config.fit.seed))
    else:
        run.begin()


def made_of(prompt: str, start: str, seed: int) -> Any:
    """The mesh of a prompt that a field begins as: of CANDIDATES the one that the words explain best.

    Args:
        prompt: what is to be seen.
        start: a checkpoint of domain object.
        seed: of the candidates.

    Raises:
        Gen3dError: a checkpoint of another domain, or one that made nothing.
    """
    makes = Generator.from_pretrained(start, "cpu")
    if makes.domain.name != "object":
        raise Gen3dError(f"start is {start!r}, which makes {makes.domain.name}; allowed: domain object")
    (made,) = makes.sample(1, seed=seed, best_of=CANDIDATES, prompt=prompt, progress=False)
    if made is None:
        raise Gen3dError(f"{start} made nothing of {prompt!r}; try another seed, or start with a ball")
    return made


def read_prior(name: str) -> Any:
    """The generator, or the pipeline of Stable Diffusion (`stable-diffusion:PATH`), that guides a fit.

    Raises:
        Gen3dError: there is none of that name.
    """
    if name.startswith(STABLE):
        from gen3d.diffusion.stable import StableDiffusionPrior

        return StableDiffusionPrior.from_pretrained(name.removeprefix(STABLE))
    return Generator.from_pretrained(name, "cpu")


def _advance(run: Fitting, out: Path, limit: float | None, stopped: Any, progress: bool) -> None:
    shown = run.share(limit)
    measured = math.floor(MEASURED * shown)
    saved, drawn = run.seconds, -DRAWN_EVERY
    with tqdm(total=100, unit="%", disable=not (progress and sys.stderr.isatty())) as bar:
        while run.share(limit) < 1 and not stopped():
            run.advance(limit)
            share = run.share(limit)
            bar.update(100 * (share - shown))
            shown = share
            if math.floor(MEASURED * share) > measured:
                measured = math.floor(MEASURED * share)
                line = {"step": run.step, "seconds": round(run.seconds, 1), **run.measure()}
                with open(out / "metrics.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                if progress:
                    numbers = ", ".join(
                        f"{name} {value:.2f}" for name, value in line.items() if name != "step"
                    )
                    bar.write(f"step {run.step}: {numbers}", file=sys.stderr)
            if run.seconds - drawn >= DRAWN_EVERY:
                drawn = run.seconds
                run.preview(out / "preview.png")
            if run.seconds - saved >= SAVE_EVERY:
                saved = run.seconds
                run.save(out / STATE)
                run.write(out / "checkpoint")
