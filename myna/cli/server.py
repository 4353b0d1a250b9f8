"""The commands of an operator: run the server, make API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myna.cli.options import fail

keys = typer.Typer(help="API keys of a server.", no_args_is_help=True)


def serve(context: typer.Context) -> None:
    """Run the server. Every setting is a flag; --help lists them."""
    from myna.runtime.errors import ConfigurationError
    from myna.server.settings import load

    try:
        settings = load(context.args)
    except ConfigurationError as error:
        fail(str(error))
    from myna.server.process import serve as run
    from myna.streaming.errors import EngineUnavailableError

    try:
        run(settings)
    except (ConfigurationError, EngineUnavailableError) as error:
        fail(str(error))


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the key, shown in the log.")],
    file: Annotated[Path, typer.Option(help="Key file, as in the server's setting `keys`.")] = Path("keys.toml"),
    scope: Annotated[
        list[str] | None, typer.Option(help="Scope: transcribe or grant; may be repeated. Default: both.")
    ] = None,
) -> None:
    """Make a key, print it, and add its hash to the key file."""
    from myna.runtime.errors import ConfigurationError
    from myna.server.keys import Scope, add_key

    try:
        scopes = frozenset(Scope(each) for each in scope or Scope)
        typer.echo(add_key(file, name, scopes))
    except ValueError:
        fail(f"--scope must be one of {', '.join(Scope)}, not {', '.join(scope or [])}")
    except ConfigurationError as error:
        fail(str(error))
