"""The command line: `gen3d VERB ...`.

Every verb is a frozen dataclass: its fields are the flags, its `run` does the work. Arguments are parsed
before anything heavy is imported, so that `--help` needs no torch. The flags of `gen3d sample` depend on the
domain: `--domain` is looked up first, then the fields of that domain's `SampleOptions` become flags too.
"""

import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from gen3d import __version__, completion, domains, heap
from gen3d.errors import Gen3dError
from gen3d.flags import dotted_overrides, flag_names, flag_value, parse_flags
from gen3d.verbs import VERBS, Prepare, Sample, Train

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    A user's mistake is one line on stderr and status 2; Ctrl-C is status 130; anything else is a bug and
    keeps its traceback.
    """
    warnings.showwarning = _show_warning
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        heap.keep_freed()
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
    if verb == "--completion":
        print(completion.script(rest[0] if rest else ""), end="")
        raise SystemExit(0)
    if verb not in VERBS:
        raise Gen3dError(f"unknown verb {verb!r}; allowed: {', '.join(VERBS)}")
    kind = VERBS[verb]
    domain = flag_value(rest, "--domain")
    if domain is not None and domain not in domains.names():
        raise Gen3dError(f"unknown domain {domain!r}; allowed: {', '.join(domains.names())}")
    options = None
    if domain is not None and kind in (Sample, Prepare):
        options = domains.find_options(domain) if kind is Sample else domains.find_prepare_options(domain)
    command, unknown = parse_flags(verb, kind, rest, options, f"{domain}")
    if kind is Train:
        overrides, unknown = dotted_overrides(unknown)
        command = dataclasses.replace(command, overrides=overrides)
    if unknown:
        allowed = [*flag_names(kind), *(flag_names(options) if options else [])]
        raise Gen3dError(f"unknown argument {unknown[0]!r} of gen3d {verb}; allowed: {', '.join(allowed)}")
    return command


def _overview() -> str:
    lines = (f"  {verb:<10}{(kind.__doc__ or '').splitlines()[0]}" for verb, kind in VERBS.items())
    return (
        "usage: gen3d VERB [flags]\n\n"
        "Generate molecules, crystals and 3D shapes with one latent-diffusion transformer.\n\n"
        + "\n".join(lines)
        + "\n\ngen3d VERB --help shows the flags of a verb; gen3d --version the version.\n"
        "source <(gen3d --completion bash) lets Tab complete; zsh as well."
    )


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
