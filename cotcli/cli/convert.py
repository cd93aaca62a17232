"""`cotcli convert`: a Hugging Face checkpoint to the GGUF pair that cotcli runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from cotcli.cli import completion, options
from cotcli.cli.installing import Conversion, Remote, run_conversion, show_plan
from cotcli.cli.output import OutputOptions
from cotcli.errors import ModelNotFoundError, UsageError

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="The folder of a Hugging Face checkpoint, or OWNER/REPO on the hub.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where to.  [default: where --model NAME looks for it]"),
    ] = None,
    quantization: Annotated[
        str,
        typer.Option(
            "--type",
            "-t",
            metavar="T",
            help="F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S.",
            autocompletion=completion.quantizations,
        ),
    ] = "Q4_K_M",
    vision_type: Annotated[
        str | None,
        typer.Option(
            "--vision-type", metavar="T", help="Of vision tower and projector.  [default: F16; F32 beside F32]"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The model's name.  [default: by its repository, or the folder's]"),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REV", help="Of OWNER/REPO: a commit, branch or tag.  [default: main]"),
    ] = None,
    threads: options.ConversionThreads = None,
    dry_run: options.DryRun = False,
    offline: options.Offline = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")] = False,
    intermediate_states: Annotated[
        Literal["auto", "inputs", "outputs"],
        typer.Option(
            "--intermediate-states",
            help="What the checkpoint's intermediate_layers_indices name; auto goes by the transformers that saved it.",
        ),
    ] = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Make a GGUF pair from a checkpoint.

    Writes NAME-TYPE.gguf and NAME-TYPE.mmproj.gguf and prints the first one's path. Streams tensor by tensor: memory
    stays small, and a conversion that is killed leaves nothing half-written. From the hub each file is converted as it
    arrives and then dropped; one that was interrupted goes on where it stopped.
    """
    from convert import checkpoint_repo, tidy
    from convert.quantize import find_quantization
    from cotcli.registry import model_folder
    from cotcli.specs import is_name, spec_of_repo

    remote = _is_remote(source)
    if revision is not None and not remote:
        raise UsageError("--revision is for OWNER/REPO", f"{source} is a folder")
    repo = source if remote else checkpoint_repo(Path(source))
    spec = spec_of_repo(repo)
    if name is None:
        name = spec.name if spec else repo.rpartition("/")[2]
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be a model's name: that has letters, digits and . _ - only, and does not end in .gguf",
            "Give another: --name NAME",
        )
    folder = out or model_folder(name)
    target = folder / f"{name}-{find_quantization(quantization).name}.gguf"
    if target.exists() and not force and not dry_run:
        tidy(target)
        raise UsageError(f"{target} is already there", "To replace it: --force")
    job = Conversion(
        source=_remote(source, revision or (spec.revision if spec else None), offline) if remote else Path(source),
        folder=folder,
        name=name,
        quantization=quantization,
        vision_type=vision_type,
        threads=threads,
        intermediate_states=intermediate_states,
        licence=spec.licence if spec and remote else "",
    )
    if dry_run:
        show_plan(job)
    else:
        run_conversion(job, OutputOptions(quiet=quiet))


def _is_remote(source: str) -> bool:
    """Whether it names a repository; a folder of that name comes first."""
    if Path(source).is_dir():
        return False
    if _REPO.fullmatch(source):
        return True
    raise ModelNotFoundError(
        f"there is no folder {source}", "Give the folder of a Hugging Face checkpoint, or OWNER/REPO"
    )


def _remote(repo: str, revision: str | None, offline: bool) -> Remote:
    from cotcli.hub import is_offline

    return Remote(repo, revision, offline or is_offline())
