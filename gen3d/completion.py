"""What a shell proposes when people press Tab, written from the flags of the verbs."""

from gen3d import domains
from gen3d.errors import Gen3dError
from gen3d.flags import flag_names
from gen3d.verbs import VERBS, Prepare, Sample

SHELLS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}
"""Names of shells, and what each needs before a script for bash."""
_SCRIPT = """_gen3d() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} domain="" i
  for ((i = 3; i < COMP_CWORD; i++)); do
    [[ ${{COMP_WORDS[i - 1]}} == --domain ]] && domain=${{COMP_WORDS[i]}}
  done
  local words=""
  if ((COMP_CWORD == 1)); then
    words="{verbs}"
  elif [[ ${{COMP_WORDS[COMP_CWORD - 1]}} == --domain ]]; then
    words="{domains}"
  elif [[ $current == -* ]]; then
    case "$verb" in
{flags}
    esac
    case "$verb $domain" in
{own}
    esac
  else
    COMPREPLY=($(compgen -f -- "$current"))
    return
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o filenames -F _gen3d gen3d
"""


def script(shell: str) -> str:
    """The script that a shell reads: `source <(gen3d --completion bash)`.

    Raises:
        Gen3dError: another shell.
    """
    if shell not in SHELLS:
        raise Gen3dError(f"no completion for shell {shell!r}; allowed: {', '.join(SHELLS)}")
    flags = [f'      {verb}) words="{" ".join(flag_names(kind))}" ;;' for verb, kind in VERBS.items()]
    own = []
    for verb, kind in VERBS.items():
        for name in domains.TABLE if kind in (Sample, Prepare) else ():
            options = domains.find_options(name) if kind is Sample else domains.find_prepare_options(name)
            if options is not None:
                own.append(f'      "{verb} {name}") words="$words {" ".join(flag_names(options))}" ;;')
    return SHELLS[shell] + _SCRIPT.format(
        verbs=" ".join(VERBS), domains=" ".join(domains.TABLE), flags="\n".join(flags), own="\n".join(own)
    )
