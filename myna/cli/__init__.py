"""The command line. Each command imports what it needs when it runs: a client command does not load the server."""

from __future__ import annotations

import os

import typer

from myna import __version__
from myna.cli import bench, clients, server

app = typer.Typer(name="myna", help="Self-hosted real-time speech to text.", no_args_is_help=True, add_completion=False)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    server.serve
)
app.command()(clients.stream)
app.command()(clients.transcribe)
app.command()(clients.mic)
app.add_typer(bench.app, name="bench")
app.add_typer(server.keys, name="keys")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # child processes import nothing from the current folder
    app()
