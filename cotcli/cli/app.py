"""All commands under one name."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cotcli import __version__
from cotcli.cli import ask, batch, cache, config, convert, demo, doctor, model, schema, score
from cotcli.cli.run import ReaderGone
from cotcli.errors import Interrupted


class _Commands(TyperGroup):
    """Typer makes exit codes of its own out of these two; here they are `cotcli.cli.run`'s business."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted") from error
        except BrokenPipeError as error:
            raise ReaderGone from error


app = typer.Typer(
    name="cotcli",
    cls=_Commands,
    help="Runs LLaVA-CoT, a vision model that thinks out loud, on stock llama.cpp.",
    epilog="Every option can be set by a COTCLI_ variable or in a config file, too: cotcli config show --origin.",
    no_args_is_help=True,
    # Plain help: rich's takes longer to import than the rest of the command line together.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cotcli {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("ask")(ask.ask)
app.command("batch")(batch.batch)
app.command("demo")(demo.demo)
app.command("score")(score.score)
app.command("convert")(convert.convert)
app.add_typer(model.app, name="model")
app.add_typer(cache.app, name="cache")
app.add_typer(config.app, name="config")
app.command("doctor")(doctor.doctor)
app.command("schema")(schema.schema)
