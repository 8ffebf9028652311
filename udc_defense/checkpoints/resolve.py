"""A name, a folder or `owner/name[@revision]` on the Hugging Face Hub -> a folder whose files are verified.

The environment variable `UDC_DEFENSE_REPO` moves all names from the package to the Hub, one repository a checkpoint:

    OWNER                     `default` is OWNER/udc-defense-restorer-default (-purifier-, -guide-)
    OWNER/PREFIX[@REVISION]   `default` is OWNER/PREFIX-restorer-default[@REVISION]

Without a revision the current commit is used, and stated; with it, every repository must have a branch or tag of that
name. Folders, and sources that name a repository themselves, stay what they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from udc_defense.checkpoints.files import embedded_folder, embedded_names, verify
from udc_defense.errors import CheckpointError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@(?!.*\.\.)\w[\w./-]*)?")  # a revision becomes a path in the cache
HUB_OWNER = "UDC_DEFENSE_REPO"
NAME = re.compile(r"[\w.-]+")


def resolve(source: str | Path, kind: str) -> Path:
    """The local folder of a checkpoint, its files verified: embedded name, then folder, then the Hub."""
    source = _on_hub(source, kind)
    if str(source) in embedded_names(kind):
        folder = embedded_folder(str(source), kind)
    elif Path(source).is_dir():
        folder = Path(source)
    elif HUB_ID.fullmatch(str(source)) and not Path(source).exists():
        from udc_defense.checkpoints.hub import download  # its client is slow to import

        return download(str(source))
    else:
        names = ", ".join(embedded_names(kind)) or "none"
        raise CheckpointError(
            f"{source}: neither an embedded {kind} ({names}), nor a folder, nor owner/name[@revision] on the Hub."
        )
    verify(folder, source)
    return folder


def _on_hub(source: str | Path, kind: str) -> str | Path:
    """The repository that `UDC_DEFENSE_REPO` makes of a name; every other source as it is."""
    setting, name = os.environ.get(HUB_OWNER), str(source)
    if not setting or isinstance(source, Path) or not NAME.fullmatch(name):
        return source
    if name not in embedded_names(kind) and Path(name).exists():
        return source
    family, at, revision = setting.partition("@")
    repository = f"{family if '/' in family else f'{family}/udc-defense'}-{kind}-{name}{at}{revision}"
    if not HUB_ID.fullmatch(repository):
        raise CheckpointError(f"{HUB_OWNER} {setting!r} is not OWNER or OWNER/PREFIX[@REVISION].")
    return repository
