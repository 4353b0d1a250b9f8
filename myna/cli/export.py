"""The command that exports a checkpoint for machines without torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from myna.cli.options import fail


class _Layout(StrEnum):
    ONNX_ASR = "onnx-asr"
    SHERPA_ONNX = "sherpa-onnx"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .nemo file.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the exported model, such as models/NAME.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to int8: a quarter of the size, and faster.")] = False,
    layout: Annotated[_Layout, typer.Option(help="Names and forms of the files.")] = _Layout.ONNX_ASR,
    look_ahead: Annotated[
        int | None, typer.Option(min=0, help="For a cache-aware model: frames of 80 ms that it sees ahead.")
    ] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Recording to compare the export with the checkpoint on; may be repeated.")
    ] = None,
) -> None:
    """Export a Parakeet checkpoint to ONNX, to be served without torch; needs the parakeet extra."""
    from myna.clients.files import UnreadableFileError, chunks
    from myna.streaming.errors import EngineUnavailableError

    try:
        recordings = [b"".join(chunks(path)) for path in audio or []]
    except UnreadableFileError as error:
        fail(str(error))
    try:
        from myna.inference.engines.parakeet import export as exporting
    except ModuleNotFoundError as error:
        fail(f"this command needs the parakeet extra ({error.name} is not installed): pip install 'myna[parakeet]'")
    try:
        exporting.export(checkpoint, folder, layout=layout.value, int8=int8, look_ahead=look_ahead)
        typer.echo(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB")
        if recordings:
            words, differing = exporting.compare(checkpoint, folder, recordings)
            typer.echo(f"{differing} of {words} words differ from the checkpoint's")
    except EngineUnavailableError as error:
        fail(str(error))
