"""A GGUF pair that lies ready on the hub -> an installed one: downloaded, verified, named as a conversion's is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from convert.journal import Journal
from convert.needs import DiskNeeds, Survey, free_bytes
from convert.pair import JOURNAL, PARTS, disk_errors, install_pair, remove_work
from convert.sources import Origin
from cotcli.errors import HubError
from cotcli.hub import HubRepo
from cotcli.hub_errors import page
from cotcli.install import FileRecord, InstallRecord, downloads_beside, locked, mmproj_beside, work_beside


def install_ready(
    repo: HubRepo,
    names: tuple[str, str],
    sha256: tuple[str, str],
    language: Path,
    quant: str,
    on_plan: Callable[[Survey], None] | None = None,
) -> InstallRecord:
    """Installs a pair; one that ended early goes on where it stopped.

    Args:
        repo: at the commit that has the files, on the hub or in the cache.
        names: the language file's and the mmproj file's, in the repository.
        sha256: what each must hash to.
        language: the path that the language file gets; its folder is made if it is not there.
        on_plan: called before the download.

    Raises:
        HubError: the repository has other files than these, or does not give them.
        ResourceError: not enough disk, or the folder cannot be written.
    """
    _check(repo, names, sha256)
    work, parts = work_beside(language), _parts(language)
    language.parent.mkdir(parents=True, exist_ok=True)
    with locked(language), disk_errors(language.parent, kept=True):
        journal = Journal(work / JOURNAL, {"repo": repo.id, "language": sha256[0], "mmproj": sha256[1]})
        if not journal.begun or (journal.finishing and not parts[0].exists()):
            shutil.rmtree(work, ignore_errors=True)  # of something else, or of long ago
            downloads_beside(language).mkdir(parents=True)
            journal.restart()
        if journal.finishing is None:
            _fetch_both(repo, names, language, on_plan)
            files = [
                FileRecord(path.name, repo.files[name].size, digest)
                for path, name, digest in zip((language, mmproj_beside(language)), names, sha256, strict=True)
            ]
            journal.finish(InstallRecord(files[0], files[1], quant, repo=repo.id, revision=repo.commit).to_dict())
        assert journal.finishing is not None
        record = InstallRecord.from_dict(journal.finishing)
        install_pair(language, parts, record)
        remove_work(work)
    return record


def survey_ready(repo: HubRepo, names: tuple[str, str], sha256: tuple[str, str], language: Path) -> Survey:
    """What `install_ready` with the same arguments would do. Changes nothing.

    Raises:
        HubError: as `install_ready`.
    """
    _check(repo, names, sha256)
    return _survey(repo, names, language)


def _survey(repo: HubRepo, names: tuple[str, str], language: Path) -> Survey:
    downloads = downloads_beside(language)
    sizes = {name: repo.files[name].size for name in names}
    to_come = [name for name, part in zip(names, _parts(language), strict=True) if not part.exists()]
    missing = {name: repo.missing(name, downloads) if name in to_come else 0 for name in names}
    # What is in the cache is copied from there.
    copied = [name for name in to_come if repo.cached(name) is not None and not (downloads / name).exists()]
    total = sum(missing.values()) + sum(sizes[name] for name in copied)
    disk = DiskNeeds(total, 0, free_bytes(downloads))
    return Survey(language, Origin(repo.id, repo.commit), sizes, missing, sum(sizes.values()), disk)


def _parts(language: Path) -> tuple[Path, Path]:
    work = work_beside(language)
    return work / PARTS[0], work / PARTS[1]


def _fetch_both(
    repo: HubRepo, names: tuple[str, str], language: Path, on_plan: Callable[[Survey], None] | None
) -> None:
    """Both files under the names of parts, which they get when they are whole and verified."""
    plan, downloads = _survey(repo, names, language), downloads_beside(language)
    if on_plan is not None:
        on_plan(plan)
    plan.disk.check(language.parent)
    for name, part in zip(names, _parts(language), strict=True):
        if part.exists():
            continue
        path = repo.fetch(name, downloads)
        if path != downloads / name:  # it is in the cache, and stays there
            path = Path(shutil.copyfile(path, downloads / f"{part.name}.copy"))
        os.replace(path, part)


def _check(repo: HubRepo, names: tuple[str, str], sha256: tuple[str, str]) -> None:
    for name, digest in zip(names, sha256, strict=True):
        if name not in repo.files and repo.offline:
            raise HubError(f"{name} of {repo.id} is not in the Hugging Face cache", "Start it without --offline")
        if name not in repo.files:
            raise HubError(f"{repo.id} has no {name} at {repo.commit[:12]}", f"See {page(repo.id)}")
        if repo.offline:
            repo.expect(name, digest)  # whatever the cache calls it
        elif repo.files[name].sha256 != digest:
            raise HubError(
                f"{name} of {repo.id} is not the file that models.toml names: its SHA-256 is another",
                "Do not use it; correct the entry if it is wrong",
            )
