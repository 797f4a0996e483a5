"""`gen3d train`: the configuration of a run from flags and files, and the run."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Suppress, arg

from gen3d import domains
from gen3d.errors import Gen3dError
from gen3d.verbs.terminal import show_progress


@dataclass(frozen=True)
class Train:
    """Train a model, or fine-tune one; the same command again resumes where it stopped.

    Any key of the configuration can be set by its dotted name, such as --train.steps 1000.
    """

    data: Path
    """Folder of prepared data; a file or folder of structures or shapes, which is prepared
    first; or a capture."""
    out: Path
    """Folder of the run."""
    domain: str | None = None
    """What to train: molecule, crystal, shape, image, object, scene-prior, dynamic-scene, or another
    package's; by default what --config says."""
    config: Path | None = None
    """YAML file with the configuration."""
    init_from: Annotated[str | None, arg(name="from")] = None
    """Checkpoint to start from (fine-tuning): a domain's name, a folder or a hub id."""
    size: str | None = None
    """Size of the transformer: xs, s, b, l or xl."""
    max_minutes: float | None = None
    """Stop, with everything saved, after that many minutes."""
    resume: bool = True
    """Start over even when --out holds a run."""
    report: bool = False
    """Write report.html into --out, with curves and configuration; it opens anywhere, also offline."""
    quiet: bool = False
    """Show no progress bar."""
    json: bool = False
    """Print where the checkpoint is, and what was measured last, as JSON."""
    overrides: Suppress[Any] = field(default_factory=dict)

    def run(self) -> None:
        from gen3d.domains.base import SceneDomain
        from gen3d.train import train

        found = None if self.domain is None else domains.find(self.domain)
        if found is not None and issubclass(found, SceneDomain):
            return self._fit(found.RunConfig)
        config = self.run_config()
        data = _prepared(self.data, self.out, config.domain, progress=show_progress(self.quiet))
        checkpoint = train(
            config,
            data,
            self.out,
            init_from=self.init_from,
            max_minutes=self.max_minutes,
            resume=self.resume,
            progress=not self.quiet,
        )
        self._tell(checkpoint, config.domain)

    def _fit(self, kind: type) -> None:
        """`run` for a domain that fits scenes."""
        from gen3d.config import from_dict, load_yaml, merge
        from gen3d.optimise import optimise

        for flag, value in (("--from", self.init_from), ("--size", self.size)):
            if value is not None:
                raise Gen3dError(
                    f"{flag} is of no use for {self.domain}: it fits one scene, without a transformer"
                )
        values = {} if self.config is None else load_yaml(self.config)
        values = merge(merge(values, {"domain": self.domain}), self.overrides)
        config: Any = from_dict(kind, values)
        checkpoint = optimise(
            config,
            self.data,
            self.out,
            max_minutes=self.max_minutes,
            resume=self.resume,
            progress=not self.quiet,
        )
        self._tell(checkpoint, config.domain)

    def _tell(self, checkpoint: Path, domain: str) -> None:
        """What is said, and written, when the run is over."""
        page = self.out / "report.html" if self.report else None
        if page is not None:
            _write_report(page, self.out, domain)
        if self.json:
            from gen3d.curves import METRICS, read_lines

            last = {name: value for line in read_lines(self.out / METRICS) for name, value in line.items()}
            print(json.dumps({"checkpoint": str(checkpoint), **last}))
        elif not self.quiet:
            print(f"checkpoint: {checkpoint}")
            if page is not None:
                print(f"report: {page}")

    def run_config(self) -> Any:
        """The `RunConfig` of --from, --config, --domain, --size and dotted names, the later ones winning."""
        from gen3d.checkpoint import read_config
        from gen3d.config import load_yaml, merge
        from gen3d.diffusion.objective import DiffusionConfig
        from gen3d.generator_config import fitted_model, make_domain
        from gen3d.locate import locate
        from gen3d.run_config import mapping, run_config

        values: dict[str, Any] = {}
        if self.init_from is not None:
            start = read_config(locate(self.init_from))
            values = {name: start[name] for name in ("domain_config", "diffusion", "sampling")}
            # What follows from the domain and the objective is found anew: either may change.
            follows = fitted_model(make_domain(start["domain"], start["domain_config"]), DiffusionConfig())
            values["model"] = {name: v for name, v in start["model"].items() if name not in follows}
            if self.config is None:
                tuned = make_domain(start["domain"], start["domain_config"])
                values["train"] = dict(tuned.fine_tuning)
        if self.config is not None:
            values = merge(values, load_yaml(self.config))
        if self.domain is not None:
            values = merge(values, {"domain": self.domain})
        if self.size is not None:
            # The size wins over what a YAML file or a checkpoint says of it.
            given = mapping(values, "model")
            model = {k: v for k, v in given.items() if k not in ("width", "depth", "heads")}
            values = {**values, "model": {**model, "size": self.size}}
        values = merge(values, self.overrides)
        if "domain" not in values:
            raise Gen3dError(f"--domain is missing; allowed: {', '.join(domains.names())}")
        config = run_config(values)
        learnt = any(True for _ in make_domain(config.domain, config.domain_config).codec.parameters())
        if learnt and self.init_from is None and not config.train.codec_steps:
            raise Gen3dError(
                "train.codec_steps is 0, so the codec would stay untrained: give --config (see configs/), "
                "--from, or --train.codec_steps above 0"
            )
        return config


def _write_report(page: Path, out: Path, domain: str) -> None:
    """The page of a run: its curves, a film of the scene where it fitted one, and its configuration."""
    from gen3d.config import load_yaml
    from gen3d.curves import draw_training
    from gen3d.domains.base import SceneDomain
    from gen3d.report import turning, write_report

    cls = domains.find(domain)
    curves = draw_training(out)
    drawings = {} if curves is None else {"Curves": curves.read_bytes()}
    if issubclass(cls, SceneDomain):
        drawings |= turning(cls, cls.load(out / "checkpoint"))
    write_report(page, f"{domain}: {out}", record=load_yaml(out / "config.yaml"), drawings=drawings)


def _prepared(data: Path, out: Path, domain: str, *, progress: bool) -> Path:
    """`data` itself where it is prepared; of structures, what becomes of them in the run folder."""
    arrays = data.suffix == ".npz" or any(data.glob("*.npz")) or any(data.parent.glob(f"{data.name}_*.npz"))
    if arrays or not data.exists():
        return data
    target = out / "data"
    report = target / "dataset.json"
    fresh = report.is_file() and report.stat().st_mtime > data.stat().st_mtime
    if not fresh or json.loads(report.read_text(encoding="utf-8"))["source"] != str(data):
        print(domains.find(domain).prepare(str(data), target, progress=progress), file=sys.stderr)
    return target
