"""`cotcli model pull`: a model by name, from the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from cotcli.cli import completion, options
from cotcli.cli.installing import MAIN, Conversion, Remote, run_conversion, run_ready, show_plan
from cotcli.cli.output import OutputOptions
from cotcli.cli.run import note
from cotcli.errors import ModelNotFoundError, UsageError
from cotcli.install import mmproj_beside
from cotcli.specs import ModelSpec


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:QUANT]",
            help="A name that cotcli model ls shows.",
            show_default=False,
            autocompletion=completion.missing_models,
        ),
    ],
    quant: Annotated[
        str | None,
        typer.Option(
            "--type",
            "-t",
            metavar="T",
            help="As for convert.  [default: the model's own]",
            autocompletion=completion.quantizations,
        ),
    ] = None,
    threads: options.ConversionThreads = None,
    dry_run: options.DryRun = False,
    offline: options.Offline = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Install it again over what is there.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Download and install a model.

    Converts each file of the checkpoint as it arrives, so that there need be disk for the result and one such file
    only. Prints the path of the language file. One that was interrupted goes on where it stopped.
    """
    from convert import tidy
    from convert.quantize import find_quantization
    from cotcli.hub import is_offline
    from cotcli.registry import model_folder

    base, colon, own = name.partition(":")
    spec = _known(base)
    if colon and quant is not None and own.upper() != quant.upper():
        raise UsageError(f"{name} and --type {quant} name two quantizations", "Give one of them")
    wanted = (quant or own or spec.default_quant or "Q4_K_M").upper()
    if spec.files:
        return _bundled(spec, wanted, quiet)
    ready = spec.ready_as(wanted)
    wanted = ready.quant if ready else find_quantization(wanted).name
    folder = model_folder(spec.name)
    language = folder / f"{spec.name}-{wanted}.gguf"
    if language.is_file() and mmproj_beside(language).is_file() and not force and not dry_run:
        tidy(language)
        if not quiet:
            note(f"{spec.name}:{wanted} is installed already; --force installs it again")
        print(language)
        return
    output, offline = OutputOptions(quiet=quiet), offline or is_offline()
    if ready is not None:
        return run_ready(ready, language, spec.licence, output, offline=offline, dry_run=dry_run)
    if spec.repo is None:
        raise ModelNotFoundError(
            f"models.toml names no repository for {spec.name}",
            f"From a checkpoint: cotcli convert SRC --name {spec.name}",
        )
    source = Remote(spec.repo, spec.revision or (MAIN if force else None), offline)
    job = Conversion(source, folder, spec.name, wanted, threads=threads, licence=spec.licence)
    if dry_run:
        show_plan(job)
    else:
        run_conversion(job, output)


def _known(name: str) -> ModelSpec:
    from cotcli.specs import did_you_mean, spec_of_repo, specs

    spec = specs().get(name) or (spec_of_repo(name) if "/" in name else None)
    if spec is not None:
        return spec
    if "/" in name:
        hint = f"From its repository: cotcli convert {name}"
    else:
        hint = f"{did_you_mean(name)}To see the known ones: cotcli model ls"
    raise ModelNotFoundError(f"there is no model {name} in models.toml", hint)


def _bundled(spec: ModelSpec, quant: str, quiet: bool) -> None:
    from cotcli.registry import resolve

    pair = resolve(f"{spec.name}:{quant}")
    if not quiet:
        note(f"{spec.name} comes with cotcli")
    print(pair.language)
