"""`cotcli convert`: a Hugging Face checkpoint to the GGUF pair that cotcli runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from cotcli.cli import completion, options
from cotcli.cli.output import OutputOptions, make_console, stderr_can_redraw
from cotcli.cli.run import note
from cotcli.errors import ModelNotFoundError, UsageError

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="The folder of a Hugging Face checkpoint.", show_default=False)
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
    threads: options.Threads = None,
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
    stays small, and a conversion that is killed leaves nothing half-written.
    """
    from convert import checkpoint_repo
    from convert import convert as convert_checkpoint
    from convert.quantize import find_quantization
    from cotcli.registry import model_folder
    from cotcli.specs import is_name, spec_of_repo

    if not source.is_dir():
        raise _no_folder(str(source))
    if name is None:
        repo = checkpoint_repo(source)
        spec = spec_of_repo(repo)
        name = spec.name if spec else repo.rpartition("/")[2]
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be a model's name: that has letters, digits and . _ - only, and does not end in .gguf",
            "Give another: --name NAME",
        )
    folder = out or model_folder(name)
    target = folder / f"{name}-{find_quantization(quantization).name}.gguf"
    if target.exists() and not force:
        raise UsageError(f"{target} is already there", "To replace it: --force")
    with _progress(OutputOptions(quiet=quiet)) as progress:
        pair = convert_checkpoint(
            source,
            folder,
            quantization=quantization,
            vision_type=vision_type,
            name=name,
            progress=progress,
            threads=threads,
            intermediate_states=intermediate_states,
        )
    if not quiet:
        note(f"language {pair.language_bytes / 1e6:.1f} MB, {pair.mmproj.name} {pair.mmproj_bytes / 1e6:.1f} MB")
    print(pair.language)


def _no_folder(source: str) -> ModelNotFoundError:
    from cotcli.specs import spec_of_repo

    if _REPO.fullmatch(source):
        spec = spec_of_repo(source)
        folder = spec.name if spec else source.rpartition("/")[2]
        download = f"hf download {source} --local-dir {folder}; cotcli convert {folder}"
        return ModelNotFoundError(f"there is no folder {source}", f"Download the checkpoint first: {download}")
    return ModelNotFoundError(f"there is no folder {source}", "Give the folder of a Hugging Face checkpoint")


@contextmanager
def _progress(output: OutputOptions) -> Iterator[Callable[[str, int, int], None] | None]:
    """Bytes written, on a stderr terminal."""
    if output.quiet or not stderr_can_redraw():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=make_console(sys.stderr, output.color),
        transient=True,
    ) as bar:
        task = bar.add_task("Converting")

        def show(tensor: str, done: int, total: int) -> None:
            bar.update(task, description=tensor, completed=done, total=total)

        yield show
