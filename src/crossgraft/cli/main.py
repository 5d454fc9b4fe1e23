"""The `crossgraft` command. Commands import what they need when they run, so that `--help` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from crossgraft import __version__
from crossgraft.cli import answer, classes, colors, export, features, fewshot, models, predict, report, search, train
from crossgraft.errors import CrossgraftError

INTERRUPTED = 130

app = typer.Typer(
    name="crossgraft",
    help="Adapt frozen vision-language models by training a few percent of their parameters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.command("features")(features.features)
app.command("fewshot")(fewshot.fewshot)
app.command("predict")(predict.predict)
app.add_typer(classes.app, name="classes")
app.command("export")(export.export)
app.command("params")(train.params)
app.command("train")(train.train)
app.command("evaluate")(train.evaluate)
app.command("answer")(answer.answer)
app.command("search")(search.search)
app.command("colors")(colors.colors)
app.command("report")(report.report)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"crossgraft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit code 0: done; 1: the run failed; 2: bad usage or bad input; 130: interrupted."""
    try:
        app()
    except CrossgraftError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:  # typer has turned a KeyboardInterrupt into this
        if end.code == INTERRUPTED:
            print("interrupted; run the same command again: what was encoded is kept", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
