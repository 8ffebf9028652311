"""The Hugging Face Hub: verified downloads into the cache of its client, and pushes.

What its client leaves open is closed here. It compares sizes: every file is also compared with `checksums.json`, and
fetched once more where it differs. It points the cache's ref at a new commit before the files have come: here a commit
is remembered when it is whole, so that the last good one is what remains where the Hub goes away. It tries for minutes
where nobody answers: here each request is preceded by one that gives up after `HF_HUB_ETAG_TIMEOUT` (10 s).

The client itself resumes a file whose connection breaks (in steps of 10 MiB), locks what two processes fetch at once,
and takes its settings from the environment: `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import re
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import starmap
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from udc_defense.checkpoints.files import (
    CHECKSUMS,
    HUB_FILES,
    PUSHED,
    faults,
    hub_files,
    record_push,
    verify,
    write_checksums,
)
from udc_defense.errors import CheckpointError

logger = logging.getLogger(__name__)

COMMIT = re.compile("[0-9a-f]{40}")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def download(source: str) -> Path:
    """The folder of a repository's snapshot, verified.

    A commit that the cache holds needs no request. Of a branch or tag, or where none is named, the commit is asked for
    once in a process; a Hub that does not tell leaves the last commit that was whole.

    Args:
        source: `owner/name[@revision]`.

    Raises:
        CheckpointError: one sentence that says what to do.
    """
    repo, _, revision = source.partition("@")
    with _one_sentence(source):
        cached = _cached(repo, revision)
        if cached is not None and COMMIT.fullmatch(revision) and _whole(cached, source):
            return cached
    try:
        with _one_sentence(source):
            commit, names = _listed(repo, revision)
    except CheckpointError as error:
        if cached is None:
            raise
        verify(cached, source)
        reason = type(error.__cause__).__name__
        logger.warning("%s: not told by the Hub (%s); the cache's %s@%s is used.", source, reason, repo, cached.name)
        return cached
    try:
        with _one_sentence(source):
            folder = _fetched(source, repo, commit, names)
    except CheckpointError as error:
        if cached is None or cached.name == commit:
            raise
        sentence = str(error).removesuffix(".")
        raise CheckpointError(f"{sentence}; the cache still holds {repo}@{cached.name}.") from error
    _remember(folder, revision)
    return folder


def push(
    folder: str | Path,
    repo: str,
    *,
    card: str | Path | None = None,
    revision: str | None = None,
    message: str | None = None,
    private: bool = False,
) -> str:
    """Upload a checkpoint, its `checksums.json` written anew, so that the repository holds these weights and no others.

    `hub.json` in the folder then records where it is; a folder that cannot be written is warned about.

    Args:
        folder: a restorer, purifier or guide.
        repo: `owner/name`; made where there is none.
        card: becomes the repository's `README.md`; that of the folder, if any, where none is given.
        revision: a branch; made from `main` where there is none. `main` itself if not given.
        message: of the commit.
        private: make it a private repository; one that exists must be private already.

    Returns:
        The commit, which `owner/name@commit` loads.

    Raises:
        CheckpointError: one sentence that says what to do.
    """
    folder = Path(folder)
    if not any(folder.rglob("*.safetensors")):
        raise CheckpointError(f"{folder}: not a folder with a checkpoint, for it holds no .safetensors.")
    try:
        write_checksums(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: its {CHECKSUMS} cannot be written ({error.strerror}); push a copy."
        ) from error
    api = huggingface_hub.HfApi()
    with _one_sentence(repo):
        try:
            # Asked first, for the requests that write have no time-out.
            public = not api.model_info(repo, timeout=constants.HF_HUB_ETAG_TIMEOUT).private
        except RepositoryNotFoundError:
            api.create_repo(repo, private=private or None, exist_ok=True)
        else:
            if private and public:
                raise CheckpointError(f"{repo}: exists and is public; make it private on the Hub, or push to another.")
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.create_commit(
            repo,
            _changes(folder, Path(card or folder / "README.md"), api.list_repo_files(repo, revision=revision)),
            revision=revision,
            commit_message=message or f"Upload {folder.resolve().name}",
        )
    pushed = f"{repo}@{done.oid}"
    try:
        record_push(folder, pushed)
    except OSError as error:
        logger.warning("%s: is at %s now, which its %s cannot record (%s).", folder, pushed, PUSHED, error.strerror)
    return done.oid


def _changes(folder: Path, card: Path, there: list[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes a repository hold this checkpoint: a download brings whatever is there, listed or not."""
    files = {name: folder / name for name in (CHECKSUMS, *hub_files(folder))}
    gone = [name for name in there if _is_downloaded(name) and name not in files]
    if card.is_file():
        files["README.md"] = card
    return [*starmap(CommitOperationAdd, files.items()), *map(CommitOperationDelete, gone)]


def _is_downloaded(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in HUB_FILES)


def _cached(repo: str, revision: str) -> Path | None:
    """The snapshot of a revision in the cache."""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=HUB_FILES, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None


def _whole(folder: Path, source: str) -> bool:
    """Whether a snapshot lacks nothing; without a list of its files, weights say so, for they are fetched last."""
    if (folder / CHECKSUMS).is_file():
        return not _differing(folder, source)
    return any(folder.rglob("*.safetensors"))


def _differing(folder: Path, source: str) -> list[str]:
    """Files that `checksums.json` does not confirm: itself, where it is unreadable."""
    try:
        return list(faults(folder, source))
    except CheckpointError:
        return [CHECKSUMS]


@functools.cache  # a branch that moves on the Hub does not move within a process
def _listed(repo: str, revision: str) -> tuple[str, list[str]]:
    """The commit of a revision, and its files in the order in which they are fetched."""
    info = huggingface_hub.HfApi().model_info(repo, revision=revision or None, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    commit = str(info.sha)
    if not revision:
        logger.warning("%s: no revision is named; its current commit is used: %s@%s", repo, repo, commit)
    files = [sibling.rfilename for sibling in info.siblings or []]
    names = filter(_is_downloaded, files)
    return commit, sorted(names, key=lambda name: (name.endswith(".safetensors"), name != CHECKSUMS, name))


def _fetched(source: str, repo: str, commit: str, names: list[str]) -> Path:
    """The snapshot of a commit, with what the cache lacks from the network."""
    for name in names:
        if not isinstance(huggingface_hub.try_to_load_from_cache(repo, name, revision=commit), str):
            _fetch(repo, commit, name)
    folder = _cached(repo, commit)
    if folder is None:
        raise CheckpointError(f"{source}: the repository has no files of a checkpoint.")
    for name in _differing(folder, source):
        if name in names:
            _fetch(repo, commit, name, again=True)
    for name, fault in faults(folder, source).items():
        where = "though it was fetched twice; try another revision" if name in names else "and not in the repository"
        raise CheckpointError(f"{source}: its file {name} {fault}, {where}.")
    return folder


def _fetch(repo: str, commit: str, name: str, *, again: bool = False) -> None:
    """One file into the cache. A file that is there is replaced when the new one has come in full."""
    url = huggingface_hub.hf_hub_url(repo, name, revision=commit)
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    # The same request, without the retries that the next line makes of it where it fails.
    huggingface_hub.get_hf_file_metadata(url, timeout=timeout)
    huggingface_hub.hf_hub_download(repo, name, revision=commit, etag_timeout=timeout, force_download=again)


def _remember(folder: Path, revision: str) -> None:
    """Let the cache's ref of a branch or tag name a commit that is whole."""
    if COMMIT.fullmatch(revision):
        return
    ref = folder.parents[1] / "refs" / (revision or constants.DEFAULT_REVISION)
    with contextlib.suppress(OSError):  # a cache that cannot be written can be read
        if ref.is_file() and ref.read_text() == folder.name:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{uuid.uuid4().hex}")
        new.write_text(folder.name)
        new.replace(ref)


@contextlib.contextmanager
def _one_sentence(source: str) -> Iterator[None]:
    """Whatever the client raises, in a sentence; it also lets the errors of its HTTP library through."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{source}: {_reason(error, source)}.") from error


def _reason(error: Exception, source: str) -> str:
    """What went wrong and what to do about it."""
    match error:
        case GatedRepoError():
            return "gated; accept its terms on the Hub, then `hf auth login` or set HF_TOKEN"
        case RepositoryNotFoundError():
            return "no such repository on the Hub, or a private one: check its name, or `hf auth login`"
        case RevisionNotFoundError():
            return f"the repository has no revision {source.partition('@')[2]!r}"
        case RemoteEntryNotFoundError():
            return "the Hub lists a file that it does not have; try again, or another revision"
        case HFValidationError():
            return "not a valid name of a repository"
        case OfflineModeIsEnabled():
            return "not in the cache, and HF_HUB_OFFLINE keeps the Hub away; unset it, or name a folder"
        case HfHubHTTPError():
            return _refusal(error)
        case HTTPError() | LocalEntryNotFoundError():
            return f"the Hub cannot be reached ({type(error).__name__}) and the cache does not hold it; try again later"
        case OSError() if error.errno in FULL:
            return f"no room for it in {constants.HF_HUB_CACHE}; make room, or set HF_HOME to a folder that has some"
        case OSError() if error.errno in READ_ONLY:
            return f"the cache {constants.HF_HUB_CACHE} cannot be written; set HF_HOME to a folder that can"
    return f"the exchange with the Hub failed ({type(error).__name__}); try again"


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return "the Hub wants a token that may do this; `hf auth login` or set HF_TOKEN"
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        return f"the Hub limits requests; try again in {wait} s" if wait.isdigit() else "the Hub limits requests; wait"
    return f"the Hub answers {status}; try again later"
