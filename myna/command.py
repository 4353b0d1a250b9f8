"""Parts that all commands share: option types, and the exit with an error message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, NoReturn

import typer

Url = Annotated[str, typer.Option(help="Address of the server.", envvar="MYNA_URL")]
ApiKey = Annotated[str | None, typer.Option(help="API key, if the server requires one.", envvar="MYNA_API_KEY")]
DEFAULT_URL = "http://127.0.0.1:8000"


def fail(message: str) -> NoReturn:
    """Print one line on standard error and exit with status 2."""
    typer.echo(f"myna: {message}", err=True)
    raise typer.Exit(2)


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Import within this block what an extra of the package installs; without the extra, fail and name it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "myna":
            raise
        fail(f"this command needs the {name} extra ({error.name} is not installed): pip install 'myna[{name}]'")
