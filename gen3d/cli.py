"""The command line: `gen3d VERB ...`.

Every verb is a frozen dataclass: its fields are the flags, its `run` does the work. Arguments are parsed
before anything heavy is imported, so that `--help` needs no torch. The flags of `gen3d sample` depend on the
domain: `--domain` is looked up first, then the fields of that domain's `SampleOptions` become flags too.
"""

import dataclasses
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TextIO

from tyro.conf import Positional, Suppress, arg

from gen3d import __version__, domains, io
from gen3d.errors import Gen3dError, TooFewValid
from gen3d.flags import dotted_overrides, flag_names, flag_value, parse_flags

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    A user's mistake is one line on stderr and status 2; Ctrl-C is status 130; anything else is a bug and
    keeps its traceback.
    """
    warnings.showwarning = _show_warning
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        command.run()
        sys.stdout.flush()
    except Gen3dError as error:
        print(f"gen3d: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("gen3d: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; what Python flushes at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def parse(argv: Sequence[str]) -> Any:
    """The command that `argv` asks for, an instance of one of `VERBS`; `--help` prints and exits.

    Raises:
        Gen3dError: an unknown verb, domain or flag, or a value that a flag cannot take.
    """
    verb, *rest = argv or ["--help"]
    if verb in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0)
    if verb == "--version":
        print(f"gen3d {__version__}")
        raise SystemExit(0)
    if verb not in VERBS:
        raise Gen3dError(f"unknown verb {verb!r}; allowed: {', '.join(VERBS)}")
    kind = VERBS[verb]
    domain = flag_value(rest, "--domain")
    if domain is not None and domain not in domains.names():
        raise Gen3dError(f"unknown domain {domain!r}; allowed: {', '.join(domains.names())}")
    options = domains.find_options(domain) if kind is Sample and domain else None
    command, unknown = parse_flags(verb, kind, rest, options, f"{domain}")
    if kind is Train:
        overrides, unknown = dotted_overrides(unknown)
        command = dataclasses.replace(command, overrides=overrides)
    if unknown:
        allowed = [*flag_names(kind), *(flag_names(options) if options else [])]
        raise Gen3dError(f"unknown argument {unknown[0]!r} of gen3d {verb}; allowed: {', '.join(allowed)}")
    return command


@dataclass(frozen=True)
class Sample:
    """Draw new samples from a checkpoint and write them to a file, with samples.json beside it.

    A domain adds flags of its own: gen3d sample --domain molecule --help lists them.
    """

    domain: str
    """What to generate: molecule, crystal, shape, or a domain of another package."""
    n: int = 16
    """How many samples."""
    out: Path | None = None
    """File to write, whose extension picks the format, or a folder to write into. By default a file named
    after the domain."""
    checkpoint: str | None = None
    """Folder or hub id of a checkpoint; by default the one that comes with gen3d."""
    seed: int = 0
    """Sample i depends on the seed and i alone."""
    steps: int | None = None
    """Sampler steps; by default what the checkpoint recommends, like the next two."""
    guidance: float | None = None
    """Strength of classifier-free guidance towards what is asked for, such as a property; 1 is none."""
    sampler: str | None = None
    """Name of the sampler."""
    shard: str = "0/1"
    """I/K draws the I-th of K equal parts; all parts together equal one run without shards (with
    --valid-only, every part searches its own samples)."""
    batch_size: int = 256
    """Samples computed at once; less needs less memory."""
    interpolate: tuple[Path, Path] | None = None
    """Two files of one object each: instead of N samples, draw --frames objects from one to the other."""
    frames: int = 12
    """How many objects --interpolate draws, its two ends included."""
    valid_only: bool = False
    """Draw until N samples pass the domain's quick check (molecules: bonds are found; crystals: no atoms
    overlap; shapes: there is something), and say how many were drawn."""
    quiet: bool = False
    """Show no progress and no summary."""
    json: bool = False
    """Print the summary as JSON."""
    options: Suppress[Any] = None

    def run(self) -> None:
        shard = _shard(self.shard)
        for flag, value in (("--n", self.n), ("--batch-size", self.batch_size), ("--steps", self.steps)):
            if value is not None and value < 1:
                raise Gen3dError(f"{flag} is {value}; it must be at least 1")
        if self.interpolate is not None and (self.valid_only or shard != (0, 1)):
            raise Gen3dError("--interpolate draws --frames objects; it takes no --shard and no --valid-only")
        part = "" if shard == (0, 1) else f".{shard[0]}-of-{shard[1]}"
        domain = domains.find(self.domain)
        out = self.out or Path(f"{self.domain}s{part}{domain.extension}")
        folder = out if out.is_dir() or not (out.suffix or io.known(out)) else None
        if folder is not None:
            out = folder / f"{self.domain}{part}{domain.extension}"
        elif out.suffix != domain.extension:
            io.format_of(out, "write")
        _check_folder(out)

        from gen3d.files import atomic_write
        from gen3d.generator import Generator
        from gen3d.info import versions

        shipped = domain.default_checkpoint(self.options) if self.options is not None else self.domain
        checkpoint = shipped if self.checkpoint is None else self.checkpoint
        model = Generator.from_pretrained(checkpoint, domain=self.domain)
        given = {name: getattr(self, name) for name in ("steps", "guidance", "sampler")}
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(self.options)}
        start = time.perf_counter()
        common = {"seed": self.seed, "shard": shard, "batch_size": self.batch_size}
        settings = {**common, "progress": _progress(self.quiet), **given, **options}
        shortage: TooFewValid | None = None
        if self.interpolate is not None:
            objects = self._between(model, self.interpolate)
            drawn = len(objects)
        elif self.valid_only:
            try:
                objects, drawn = model.sample_valid(self.n, **settings)
            except TooFewValid as error:
                if not error.found:
                    raise
                objects, drawn, shortage = error.found, error.drawn, error
        else:
            objects = model.sample(self.n, **settings)
            drawn = len(objects)
        seconds = time.perf_counter() - start
        if (self.out is None or folder is not None) and any(value is not None for value in objects):
            out = out.with_suffix(domain.extension_of(next(v for v in objects if v is not None)))
        files = _save(model.domain, objects, out)
        counts = {"drawn": drawn, **_counts(model.domain, objects)}
        defaults = model.config.sampling
        record = {
            "domain": self.domain,
            "checkpoint": checkpoint,
            "file": out.name,
            **({"files": [file.name for file in files]} if len(files) > 1 else {}),
            "n": self.n,
            "seed": self.seed,
            "shard": self.shard,
            **{name: getattr(defaults, name) if value is None else value for name, value in given.items()},
            "batch_size": self.batch_size,
            "options": options,
            **({"interpolate": list(self.interpolate), "frames": self.frames} if self.interpolate else {}),
            "counts": counts,
            "seconds": round(seconds, 3),
            "versions": versions(),
        }
        with atomic_write(_record(out, part)) as temporary:
            temporary.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        shown_in = model.domain.draw(objects, out.with_suffix(".png"))
        if self.json:
            print(json.dumps(record, default=str))
        elif not self.quiet:
            shown = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(f"{self.domain}: {len(objects)} samples in {seconds:.1f} s ({shown}) -> {_span(files)}")
            if shown_in is not None:
                print(f"picture: {shown_in}")
        if shortage is not None:
            raise shortage

    def _between(self, model: Any, paths: tuple[Path, Path]) -> list[Any]:
        """What --interpolate asks for."""
        from gen3d.interpolation import interpolate

        ends = [io.read(path) for path in paths]
        for path, found in zip(paths, ends, strict=True):
            if len(found) != 1:
                raise Gen3dError(f"--interpolate: {path} holds {len(found)} objects; 1 is needed")
        settings: dict[str, Any] = {"seed": self.seed, "steps": self.steps, "sampler": self.sampler}
        return interpolate(model, ends[0][0], ends[1][0], self.frames, **settings)


@dataclass(frozen=True)
class Train:
    """Train a model, or fine-tune one; the same command again resumes where it stopped.

    Any key of the configuration can be set by its dotted name, such as --train.steps 1000.
    """

    data: Path
    """Folder of prepared data, or a file or folder of structures or shapes, which is prepared first."""
    out: Path
    """Folder of the run."""
    domain: str | None = None
    """What to train: molecule, crystal, shape, or a domain of another package; by default what --config
    says."""
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
    quiet: bool = False
    """Show no progress bar."""
    overrides: Suppress[Any] = field(default_factory=dict)

    def run(self) -> None:
        from gen3d.train import train

        config = self.run_config()
        data = _prepared(self.data, self.out, config.domain, progress=_progress(self.quiet))
        checkpoint = train(
            config,
            data,
            self.out,
            init_from=self.init_from,
            max_minutes=self.max_minutes,
            resume=self.resume,
            progress=not self.quiet,
        )
        if not self.quiet:
            print(f"checkpoint: {checkpoint}")

    def run_config(self) -> Any:
        """The `RunConfig` of --from, --config, --domain, --size and dotted names, the later ones winning."""
        from gen3d.checkpoint import read_config
        from gen3d.config import load_yaml, merge
        from gen3d.generator import make_domain
        from gen3d.locate import locate
        from gen3d.run_config import mapping, run_config

        values: dict[str, Any] = {}
        if self.init_from is not None:
            start = read_config(locate(self.init_from))
            values = {name: start[name] for name in ("model", "domain_config", "diffusion", "sampling")}
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


@dataclass(frozen=True)
class Evaluate:
    """Measure samples against a reference set; prints a table and writes metrics.json."""

    domain: str
    """What the samples are: molecule, crystal, shape, or a domain of another package."""
    samples: Path
    """File or folder of samples."""
    reference: str
    """Prepared data, usually what was trained on: a folder, or its name under ./data (or $GEN3D_DATA)."""
    out: Path | None = None
    """File to write; by default metrics.json beside the samples."""
    limit: int | None = None
    """Measure only the first that many samples."""
    workers: int | None = None
    """Processes; by default one per core."""
    checks: dict[str, Any] = field(default_factory=dict)
    """Slower measurements to add, such as posebusters or xtb=100."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        from gen3d.evaluate import evaluate

        out = self.out or (self.samples if self.samples.is_dir() else self.samples.parent) / "metrics.json"
        _check_folder(out)
        evaluate(
            self.domain,
            self.samples,
            self.reference,
            out=out,
            checks=self.checks,
            workers=self.workers,
            limit=self.limit,
            progress=_progress(self.quiet),
        )


@dataclass(frozen=True)
class Prepare:
    """Turn a data set into the arrays that training reads."""

    domain: str
    """What the data are: molecule, crystal, shape, or a domain of another package."""
    source: str
    """qm9, mp-20 or sweethome3d (fetched), or a file or folder of structures or shapes."""
    out: Path
    """Folder to write."""
    limit: int | None = None
    """Keep only the first that many entries."""
    seed: int = 0
    """Seed of the split into train, valid and test where the source defines none."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        _check_folder(self.out / "data")
        progress = _progress(self.quiet)
        domain = domains.find(self.domain)
        summary = domain.prepare(self.source, self.out, limit=self.limit, seed=self.seed, progress=progress)
        if not self.quiet:
            print(f"{self.out}: {summary}")


@dataclass(frozen=True)
class Export:
    """Convert a file of samples to another format; the extensions pick the formats."""

    source: Positional[Path]
    """File to read."""
    target: Positional[Path]
    """File to write."""

    def run(self) -> None:
        io.format_of(self.target, "write")
        _check_folder(self.target)
        objects = io.read(self.source)
        io.write(objects, self.target)
        print(f"{len(objects)} objects -> {self.target}")


@dataclass(frozen=True)
class Info:
    """Show versions, devices, installed extras and the checkpoints that come with gen3d."""

    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        from gen3d.info import collect, render

        facts = collect()
        print(json.dumps(facts, indent=2) if self.json else render(facts))


VERBS: dict[str, type] = {
    "sample": Sample,
    "train": Train,
    "evaluate": Evaluate,
    "prepare": Prepare,
    "export": Export,
    "info": Info,
}


def _overview() -> str:
    lines = (f"  {verb:<10}{(kind.__doc__ or '').splitlines()[0]}" for verb, kind in VERBS.items())
    return (
        "usage: gen3d VERB [flags]\n\n"
        "Generate molecules, crystals and 3D shapes with one latent-diffusion transformer.\n\n"
        + "\n".join(lines)
        + "\n\ngen3d VERB --help shows the flags of a verb; gen3d --version the version."
    )


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not index < count:
        raise Gen3dError(f"--shard is {text!r}; expected I/K with 0 <= I < K, such as 0/4")
    return index, count


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


def _progress(quiet: bool) -> bool:
    """Whether to show bars: they are for people at a terminal, not for log files."""
    return not quiet and sys.stderr.isatty()


def _check_folder(out: Path) -> None:
    """Refuse, before any work, a file that cannot be written."""
    if out.is_dir():
        raise Gen3dError(f"{out} is a folder; name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise Gen3dError(f"cannot write to folder {out.parent}: {error.strerror}") from error


def _save(domain: Any, objects: Sequence[Any], out: Path) -> list[Path]:
    """Write the samples; returns the files.

    A format that cannot hold them must not lose them, so the domain's own then does.
    """
    made = [value for value in objects if value is not None]
    if not made:
        raise Gen3dError(f"none of {len(objects)} samples became an object; nothing was written")
    try:
        return domain.save(made, out)
    except Gen3dError as error:
        if out.suffix == domain.extension:
            raise
        rescue = out.with_name(out.name + domain.extension)
        domain.save(made, rescue)
        raise Gen3dError(f"{error}; the samples are in {rescue}") from error


def _span(files: Sequence[Path]) -> str:
    return f"{files[0]}" if len(files) == 1 else f"{files[0]} to {files[-1].name}"


def _record(out: Path, part: str) -> Path:
    """Where the record of a file goes: samples.json, or one of its own where that tells of another file."""
    own, record = out.with_name(f"samples.{out.name}.json"), out.with_name(f"samples{part}.json")
    if own.exists():
        return own
    try:
        other = json.loads(record.read_text(encoding="utf-8"))["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return record
    taken = other != out.name and out.with_name(str(other)).exists()
    return own if taken else record


def _counts(domain: Any, objects: Sequence[Any]) -> dict[str, int]:
    """How many samples became objects, and how many of them pass the domain's quick check."""
    made = [value for value in objects if value is not None]
    return {"made": len(made), "valid": sum(domain.valid(value) for value in made)}


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are one line on stderr; those of libraries are not for the user of a command."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        print(f"gen3d: warning: {' '.join(str(message).split())}", file=sys.stderr)
