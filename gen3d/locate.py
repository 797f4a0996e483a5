"""Where checkpoints are: shipped with gen3d, in a folder, or on the Hugging Face hub."""

import re
from pathlib import Path

from gen3d import checkpoint, domains
from gen3d.errors import Gen3dError

SHIPPED = Path(__file__).parent / "weights"


def locate(source: str | Path) -> Path:
    """The local folder of a checkpoint: one that ships (most are named after their domain), a folder, or
    a hub id, in this order.

    Raises:
        Gen3dError: there is none.
    """
    if isinstance(source, str) and re.fullmatch(r"[\w-]+", source) and (SHIPPED / source).is_dir():
        return SHIPPED / source
    if source in domains.names():
        raise Gen3dError(f"no weights ship for domain {source!r}; train some, or name a checkpoint folder")
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        return _download(source)
    raise Gen3dError(
        f"{str(source)!r} is no checkpoint folder, no hub id owner/name, and no domain; "
        f"domains: {', '.join(domains.names())}"
    )


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(checkpoint.FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Gen3dError(f"cannot fetch {repo_id} from the hub: {reason}") from error
