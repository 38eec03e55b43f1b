"""The hub of pretrained models: files of a repository at a commit, and what to do where there are none.

A token, a mirror and work without a network are the hub library's own variables: ``HF_TOKEN``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

from pathlib import Path

from perflow.errors import PerflowError


def names(repository: str, revision: str) -> list[str]:
    """The files of a repository at a commit; without a network those that were fetched before."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if not constants.HF_HUB_OFFLINE:
        return HfApi().list_repo_files(repository, revision=revision)
    kept = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    return [path.relative_to(kept).as_posix() for path in sorted(kept.rglob("*")) if path.is_file()]


def download(repository: str, revision: str, name: str) -> Path:
    """A file of a repository at a commit, in the library's cache."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name, revision=revision))


def caches() -> Path:
    """Where the library keeps what it fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def refusal(where: str, error: Exception, dataset: bool = False) -> PerflowError:
    """What the libraries raise when ``where``, owner/name@commit, cannot be had, in one line that says what to do."""
    from huggingface_hub import constants, errors

    found = _causes(error)
    name, _, revision = where.partition("@")
    kind = " --repo-type dataset" if dataset else ""

    def is_a(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in found)

    if is_a(errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{'datasets/' if dataset else ''}{name}"
        todo = f"it is gated: accept its conditions at {page}, then log in (hf auth login) or set HF_TOKEN"
    elif is_a(errors.RevisionNotFoundError):
        todo = "the repository has no such commit; its page lists them"
    elif is_a(errors.RepositoryNotFoundError):
        todo = (
            "no such repository, or a private one: check its name; for a private one log in (hf auth login) or set"
            " HF_TOKEN"
        )
    elif constants.HF_HUB_OFFLINE:
        todo = (
            f"HF_HUB_OFFLINE is set, and it is not in {caches()}: with a network run once"
            f" hf download {name}{kind} --revision {revision}"
        )
    else:
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if is_a(FileNotFoundError) and not is_a(errors.LocalEntryNotFoundError):
            todo = f"{said}; check its name; for a private or gated one log in (hf auth login) or set HF_TOKEN"
        else:
            todo = f"{said}; HF_HUB_OFFLINE=1 takes what was fetched before, HF_ENDPOINT names a mirror"
    return PerflowError(f"{where}: cannot be fetched from the hub ({todo})")


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and what it was raised for."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
