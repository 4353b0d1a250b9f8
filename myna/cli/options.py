"""Options and errors that several commands share."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

Url = Annotated[str, typer.Option(help="Address of the server.", envvar="MYNA_URL")]
ApiKey = Annotated[str | None, typer.Option(help="API key, if the server requires one.", envvar="MYNA_API_KEY")]
Speakers = Annotated[bool, typer.Option("--speakers", help="Tell which speaker said each word.")]
NumSpeakers = Annotated[int | None, typer.Option(min=1, help="The number of speakers, if it is known.")]
MinSpeakers = Annotated[int | None, typer.Option(min=1, help="The fewest speakers there may be.")]
MaxSpeakers = Annotated[int | None, typer.Option(min=1, help="The most speakers there may be.")]
DEFAULT_URL = "http://127.0.0.1:8000"


CANNOT_RUN = 2
"""Exit status of a command that cannot be carried out."""


def report(message: str) -> None:
    """Print an error on one line."""
    typer.echo(f"myna: {message}", err=True)


def fail(message: str) -> NoReturn:
    """Print one line and end with status 2: the command cannot be carried out."""
    report(message)
    raise typer.Exit(CANNOT_RUN)


def numbers(option: str, given: str) -> list[int]:
    """Return the numbers of a comma-separated list; end the program if it is not one."""
    if not all(number.isdecimal() and int(number) for number in given.split(",")):
        fail(f"{option} must be numbers from 1, separated by commas, such as 1,4,16, not {given!r}")
    return [int(number) for number in given.split(",")]
