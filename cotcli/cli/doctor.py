"""`cotcli doctor`: devices, memory, versions, models and a self-test against known logits."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from cotcli.cli import options
from cotcli.cli.config_file import config_file
from cotcli.cli.output import OutputOptions, make_progress


def doctor(
    json: Annotated[bool, typer.Option("--json", help="A JSON object (cotcli schema).")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare large models with their checksums too, which reads them whole.")
    ] = False,
    rpc: options.Rpc = None,
    quiet: options.Quiet = False,
) -> None:
    """Show what there is to run on, what each model would take, and whether it works.

    The bundled model runs on every device and is compared with stored logits. The exit code is 0 if all is well, 5 if a
    device fails, and else that of the first problem.
    """
    from cotcli.doctor import examine

    progress = make_progress(OutputOptions(json=json, quiet=quiet))
    try:
        report = examine(config_file(), rpc=rpc or (), verify=verify, on_step=lambda step: progress.update(step, 0, 0))
    finally:
        progress.hide()
    if json:
        from cotcli.render.jsonl import write_json
        from cotcli.render.record import doctor_record

        write_json(sys.stdout, doctor_record(report))
    else:
        from cotcli.render.report import report_text

        sys.stdout.write(report_text(report, shutil.get_terminal_size().columns))
    codes = [problem.exit_code for problem in report.problems]
    raise typer.Exit(5 if 5 in codes else codes[0] if codes else 0)
