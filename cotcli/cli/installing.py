"""A checkpoint or a ready pair, from here or the hub, to an installed model: `convert` and `model pull` are this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cotcli.cli.output import OutputOptions
from cotcli.cli.run import note
from cotcli.cli.transfer import Transfer
from cotcli.errors import Interrupted
from cotcli.install import size_text
from cotcli.specs import ReadyPair

if TYPE_CHECKING:
    from convert import DiskNeeds, Repository, Survey


MAIN = "main"
"""A revision that is no commit: what there is now, whatever an unfinished pull began with."""


@dataclass(frozen=True)
class Remote:
    """A checkpoint on the hub. `pinned` is whether its revision was chosen, by the user or by `models.toml`."""

    repo: str
    revision: str | None
    offline: bool = False

    @property
    def pinned(self) -> bool:
        return self.revision not in (None, MAIN)


@dataclass(frozen=True)
class Conversion:
    """What is to become which pair; `licence` is only said."""

    source: Path | Remote
    folder: Path
    name: str
    quantization: str
    vision_type: str | None = None
    threads: int | None = None
    intermediate_states: Literal["auto", "inputs", "outputs"] = "auto"
    licence: str = ""


def run_conversion(job: Conversion, output: OutputOptions) -> None:
    """Converts, and prints the path of the language file."""
    from convert import convert

    with Transfer(output) as transfer, _resumable(job.name, job.quantization, isinstance(job.source, Remote)):

        def on_plan(survey: Survey) -> None:
            if isinstance(job.source, Remote):
                for line in _announcement(job, survey):
                    transfer.say(line)
            transfer.on_plan(survey)

        pair = convert(
            _source(job, transfer.on_bytes),
            job.folder,
            quantization=job.quantization,
            vision_type=job.vision_type,
            name=job.name,
            progress=transfer.on_tensor,
            threads=job.threads,
            intermediate_states=job.intermediate_states,
            on_plan=on_plan,
        )
    if output.notes:
        note(f"language {size_text(pair.language_bytes)}, {pair.mmproj.name} {size_text(pair.mmproj_bytes)}")
    print(pair.language)


def show_plan(job: Conversion) -> None:
    """Prints what `run_conversion` would do.

    Raises:
        ResourceError: there is not enough disk for it.
    """
    from convert import survey

    plan = survey(
        _source(job, None),
        job.folder,
        quantization=job.quantization,
        vision_type=job.vision_type,
        name=job.name,
        intermediate_states=job.intermediate_states,
    )
    _print_plan(plan, str(job.source), job.licence)


def run_ready(
    pair: ReadyPair,
    language: Path,
    licence: str,
    output: OutputOptions,
    *,
    offline: bool = False,
    dry_run: bool = False,
) -> None:
    """Downloads a pair that needs no conversion, or takes it from the cache; prints the path of its language file."""
    from convert import install_ready, survey_ready
    from cotcli.hub import HubRepo

    with Transfer(output) as transfer, _resumable(language.parent.name, pair.quant):
        repo = HubRepo(pair.repo, pair.revision, transfer.on_bytes, pair.language if offline else None)
        names, digests = (pair.language, pair.mmproj), (pair.language_sha256, pair.mmproj_sha256)

        def on_plan(survey: Survey) -> None:
            to_come = size_text(sum(survey.to_fetch.values()))
            transfer.say(f"{pair.repo} at {repo.commit[:12]}: {to_come} to download")
            if licence:
                transfer.say(f"licence: {licence}")
            transfer.on_plan(survey)

        if dry_run:
            return _print_plan(survey_ready(repo, names, digests, language), pair.repo, licence)
        install_ready(repo, names, digests, language, pair.quant, on_plan)
    print(language)


def _print_plan(plan: Survey, source: str, licence: str) -> None:
    print(f"source    {f'{plan.origin.repo} at {plan.origin.revision}' if plan.origin else source}")
    if licence:
        print(f"licence   {licence}")
    print(f"download  {size_text(sum(plan.to_fetch.values()))} of {_files(plan.files)}")
    print(f"result    {plan.language} and its .mmproj.gguf, {size_text(plan.result_bytes)}")
    print(f"disk      {_disk(plan.disk)}")
    plan.disk.check(plan.language.parent)


@contextmanager
def _resumable(name: str, quant: str, resumable: bool = True) -> Iterator[None]:
    """Ctrl-C loses nothing of a download, and says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not resumable:
            raise
        hint = f"What has come is kept for the next time; to drop it: cotcli model rm {name}:{quant.upper()}"
        raise Interrupted("interrupted", hint) from error


def _source(job: Conversion, on_bytes: Callable[[str, int, int], None] | None) -> Path | Repository:
    from convert import Repository

    if isinstance(job.source, Path):
        return job.source
    return Repository(job.source.repo, job.source.revision, job.source.offline, on_bytes)


def _announcement(job: Conversion, survey: Survey) -> list[str]:
    assert isinstance(job.source, Remote) and survey.origin is not None
    commit = survey.origin.revision[:12]
    lines = [f"{survey.origin.repo} at {commit}" + ("" if job.source.pinned else ", since no revision is pinned")]
    if len(survey.to_fetch) < len(survey.files):
        lines.append(f"goes on where it stopped: {len(survey.files) - len(survey.to_fetch)} of the files are done")
    to_come = size_text(sum(survey.to_fetch.values()))
    lines.append(f"{to_come} of {_files(survey.files)} to download; disk: {_disk(survey.disk)}")
    if job.licence:
        lines.append(f"licence: {job.licence}")
    return lines


def _files(sizes: Mapping[str, int]) -> str:
    return f"{size_text(sum(sizes.values()))} in {len(sizes)} file{'' if len(sizes) == 1 else 's'}"


def _disk(needs: DiskNeeds) -> str:
    meanwhile = f" ({size_text(needs.shard)} of it for one file at a time)" if needs.shard else ""
    return f"{size_text(needs.total)} needed{meanwhile}, {size_text(needs.free)} free"
