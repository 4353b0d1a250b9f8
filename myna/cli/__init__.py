"""The command line. Each command imports what it needs when it runs: a client command does not load the server."""

from __future__ import annotations

import os
import sys

import typer

from myna import __version__
from myna.cli import bench, clients, models, server
from myna.cli.export import export
from myna.cli.options import CANNOT_RUN, report
from myna.clients.local_server import LocalServerError
from myna.runtime.one_thread import ONE_THREAD

_EXTRAS = {"av": "files", "jiwer": "bench", "matplotlib": "bench", "psutil": "bench", "sherpa_onnx": "bench"}
"""The extra that installs a module, where it is not `server`."""

app = typer.Typer(name="myna", help="Self-hosted real-time speech to text.", no_args_is_help=True, add_completion=False)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    server.serve
)
app.command()(clients.stream)
app.command()(clients.transcribe)
app.command()(clients.mic)
app.command()(export)
app.add_typer(bench.app, name="bench")
app.add_typer(server.keys, name="keys")
app.add_typer(models.app, name="models")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # child processes import nothing from the current folder
    os.environ.update(ONE_THREAD | os.environ)  # the cores are the engines'
    try:
        app()
    except LocalServerError as error:
        report(str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "myna").partition(".")[0]
        if missing == "myna":
            raise
        extra = _EXTRAS.get(missing, "server")
        report(f"this command needs the {extra} extra ({missing} is not installed): pip install 'myna[{extra}]'")
    sys.exit(CANNOT_RUN)
