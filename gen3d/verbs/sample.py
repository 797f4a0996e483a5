"""`gen3d sample`: draw samples, write them, and record how they were made."""

import dataclasses
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from gen3d import domains, io
from gen3d.errors import Gen3dError, TooFewValid
from gen3d.verbs.terminal import check_writable, show_progress

REPORT = ".report.html"


@dataclass(frozen=True)
class Sample:
    """Draw new samples from a checkpoint and write them to a file, with samples.json beside it.

    A domain adds flags of its own: gen3d sample --domain molecule --help lists them.
    """

    domain: str
    """What to generate: molecule, crystal, shape, image, object, scene-prior, dynamic-scene, latent-nerf,
    voxel-edit, or another package's."""
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
    best_of: int = 1
    """Candidates of each sample: the one is kept that fits what is asked for best, such as --prompt, by the
    model's own errors. It takes more than that many times as long."""
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
    preview: bool = True
    """Whether to draw a contact sheet beside the samples, NAME.preview.png."""
    report: bool = False
    """Write a page about the samples beside them, NAME.report.html, that opens anywhere, also offline."""
    quiet: bool = False
    """Show no progress and no summary."""
    json: bool = False
    """Print the summary as JSON."""
    options: Suppress[Any] = None

    def run(self) -> None:
        from gen3d.domains.base import PromptedDomain, SceneDomain

        shard = _shard(self.shard)
        for name in ("n", "best_of", "batch_size", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Gen3dError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        if self.interpolate is not None and (self.valid_only or shard != (0, 1) or self.best_of > 1):
            raise Gen3dError(
                "--interpolate draws --frames objects; it takes no --shard, --valid-only and --best-of"
            )
        if self.interpolate is not None and self.options != type(self.options)():
            raise Gen3dError(f"--interpolate takes two files and --frames; no flag of {self.domain} counts")
        part = "" if shard == (0, 1) else f".{shard[0]}-of-{shard[1]}"
        domain = domains.find(self.domain)
        if issubclass(domain, SceneDomain) and self.best_of > 1:
            raise Gen3dError(f"--best-of is {self.best_of}; {self.domain} makes one scene, allowed: 1")
        if issubclass(domain, PromptedDomain):
            return self._imagine(domain)
        if issubclass(domain, SceneDomain):
            return self._show(domain)
        out = self.out or Path(f"{self.domain}s{part}{domain.extension}")
        folder = out if out.is_dir() or not (out.suffix or io.known(out)) else None
        if folder is not None:
            out = folder / f"{self.domain}{part}{domain.extension}"
        elif out.suffix != domain.extension:
            io.format_of(out, "write")
        check_writable(out)

        from gen3d.files import atomic_write
        from gen3d.generator import Generator
        from gen3d.info import versions

        shipped = domain.default_checkpoint(self.options) if self.options is not None else self.domain
        checkpoint = shipped if self.checkpoint is None else self.checkpoint
        model = Generator.from_pretrained(checkpoint, domain=self.domain)
        given = {name: getattr(self, name) for name in ("steps", "guidance", "sampler")}
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(self.options)}
        start = time.perf_counter()
        common = {"seed": self.seed, "shard": shard, "batch_size": self.batch_size, "best_of": self.best_of}
        settings = {**common, "progress": show_progress(self.quiet), **given, **options}
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
            "best_of": self.best_of,
            "options": options,
            **({"interpolate": list(self.interpolate), "frames": self.frames} if self.interpolate else {}),
            "counts": counts,
            "seconds": round(seconds, 3),
            "versions": versions(),
        }
        with atomic_write(_record(out, part)) as temporary:
            temporary.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        shown_in = model.domain.draw(objects, out.with_suffix(io.PREVIEW)) if self.preview else None
        page: Path | None = None
        if self.report:
            from gen3d.report import write_report

            title = f"{self.domain}: {len(objects)} samples, seed {self.seed}"
            page = write_report(out.with_suffix(REPORT), title, objects, record=record)
        if self.json:
            print(json.dumps(record, default=str))
        elif not self.quiet:
            shown = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(f"{self.domain}: {len(objects)} samples in {seconds:.1f} s ({shown}) -> {_span(files)}")
            if shown_in is not None:
                print(f"picture: {shown_in}")
            if page is not None:
                print(f"report: {page}")
        if shortage is not None:
            raise shortage

    def _imagine(self, domain: Any) -> None:
        """`run` for a domain that makes scenes from words: a run in --out/run, and what it made in --out."""
        from gen3d.checkpoint import read_config
        from gen3d.optimise import optimise

        if self.checkpoint is not None:
            return self._show(domain)
        out = self.out or Path(self.domain)
        if out.suffix:
            raise Gen3dError(f"--out is {out}; for {self.domain} it is a folder")
        check_writable(out / "file")
        options = self.options if self.options is not None else domain.SampleOptions()
        given: dict[str, Any] = {"seed": self.seed, **({} if self.steps is None else {"steps": self.steps})}
        if self.guidance is not None:
            given["pull"] = {"guidance": self.guidance}
        config = domain.run_config(options, given)
        start = time.perf_counter()
        checkpoint = optimise(
            config,
            domain.data(options),
            out / "run",
            max_minutes=options.max_minutes,
            progress=show_progress(self.quiet),
        )
        self._write_scene(domain, domain.load(checkpoint), options, out, start)
        taken = read_config(checkpoint)["fit"]["steps"]
        if taken < config.fit.steps and not (self.quiet or self.json):
            print(
                f"ended after {taken} of {config.fit.steps} steps; more minutes, and the same command, go on"
            )

    def _show(self, domain: Any) -> None:
        """`run` for a domain that fits scenes: films, pictures and meshes of one."""
        if self.checkpoint is None:
            raise Gen3dError("--checkpoint is missing: the run folder of a scene that gen3d train fitted")
        if self.out is not None:
            check_writable(self.out / "file" if not self.out.suffix else self.out)
        start = time.perf_counter()
        scene = domain.load(Path(self.checkpoint))
        options = self.options if self.options is not None else domain.SampleOptions()
        self._write_scene(domain, scene, options, self.out, start)

    def _write_scene(self, domain: Any, scene: Any, options: Any, out: Path | None, start: float) -> None:
        """What the domain writes of a scene, a contact sheet and a page, beside each other."""
        from gen3d.domains.base import PromptedDomain
        from gen3d.info import versions

        files = domain.show(scene, options, out, progress=show_progress(self.quiet))
        # A folder of what words made holds all of it; one of frames holds frames alone.
        made_of_words = issubclass(domain, PromptedDomain)
        beside = (out or files[0].parent) / self.domain if made_of_words else out or files[0]
        sheet = beside.with_suffix(io.PREVIEW) if self.preview else None
        page = beside.with_suffix(REPORT) if self.report else None
        if sheet is not None:
            domain(domain.Config()).draw([scene], sheet)
        seconds = time.perf_counter() - start
        given = ("domain", "checkpoint", "seed", "steps", "guidance")
        record: dict[str, Any] = {
            **{name: getattr(self, name) for name in given},
            "options": dataclasses.asdict(options),
            "files": [str(file) for file in files],
            "seconds": round(seconds, 3),
            "versions": versions(),
        }
        if page is not None:
            from gen3d.report import turning, write_report

            title = f"{self.domain}: {getattr(options, 'prompt', None) or self.checkpoint}"
            write_report(page, title, record=record, drawings=turning(domain, scene))
        if self.json:
            print(json.dumps(record, default=str))
        elif not self.quiet:
            count = "1 file" if len(files) == 1 else f"{len(files)} files"
            print(f"{self.domain}: {count} in {seconds:.1f} s -> {out or _span(files)}")
            for name, made in (("picture", sheet), ("report", page)):
                if made is not None:
                    print(f"{name}: {made}")

    def _between(self, model: Any, paths: tuple[Path, Path]) -> list[Any]:
        """What --interpolate asks for."""
        from gen3d.interpolation import interpolate

        ends = [io.read(path) for path in paths]
        for path, found in zip(paths, ends, strict=True):
            if len(found) != 1:
                raise Gen3dError(f"--interpolate: {path} holds {len(found)} objects; 1 is needed")
        settings: dict[str, Any] = {"seed": self.seed, "steps": self.steps, "sampler": self.sampler}
        return interpolate(model, ends[0][0], ends[1][0], self.frames, **settings)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not index < count:
        raise Gen3dError(f"--shard is {text!r}; expected I/K with 0 <= I < K, such as 0/4")
    return index, count


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
        known = json.loads(record.read_text(encoding="utf-8"))
        other, files = str(known["file"]), known.get("files", [known["file"]])
    except (OSError, ValueError, KeyError, TypeError):
        return record
    taken = other != out.name and any(out.with_name(str(file)).exists() for file in files)
    return own if taken else record


def _counts(domain: Any, objects: Sequence[Any]) -> dict[str, int]:
    """How many samples became objects, and how many of them pass the domain's quick check."""
    made = [value for value in objects if value is not None]
    return {"made": len(made), "valid": sum(domain.valid(value) for value in made)}
