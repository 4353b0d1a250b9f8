"""The commands under `myna bench`: measure a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myna.cli.options import ApiKey, fail, numbers

app = typer.Typer(help="Measure a server: accuracy, turns, load, memory.", no_args_is_help=True)


@app.command()
def accuracy(
    manifest: Annotated[Path, typer.Option(help="JSON lines with audio, text and group; see docs/accuracy.md.")],
    live: Annotated[bool, typer.Option(help="Stream each recording; by default it is decoded as a file.")] = False,
    url: Annotated[str | None, typer.Option(help="Address of a running server; by default one is started.")] = None,
    api_key: ApiKey = None,
    speed: Annotated[float, typer.Option(min=0, help="Multiple of real time; 0: as fast as possible.")] = 0.0,
    endpointing_ms: Annotated[int | None, typer.Option(help="Silence in ms that ends an utterance; 0: never.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Measure only this group; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")] = None,
    marks_told: Annotated[
        bool, typer.Option("--marks-told", help="Ask for all marks at once; by default a final's last mark is held.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Measure word error rate, written form, word times and delays over a manifest of recordings."""
    from myna.bench.accuracy import AccuracyError, measure

    try:
        measure(
            manifest, live=live, url=url, api_key=api_key, speed=speed, endpointing_ms=endpointing_ms, groups=group or [],
            model=model, marks="told" if marks_told else "held", as_json=json,
        )  # fmt: skip
    except AccuracyError as error:
        fail(str(error))


@app.command()
def engine(
    models: Annotated[list[str], typer.Argument(help="Models to compare: names, paths or hub names.")],
    manifest: Annotated[Path, typer.Option(help="JSON lines with audio, text and group; see docs/accuracy.md.")],
    group: Annotated[list[str] | None, typer.Option(help="Measure only this group; may be repeated.")] = None,
    live_s: Annotated[float, typer.Option(min=0, help="Seconds of live streams, in real time; 0: none.")] = 60.0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare models: word error rate, CPU time, memory, and how many live streams this machine holds."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.comparison import compare

    try:
        compare(models, manifest, group or [], live_s, as_json=json)
    except AccuracyError as error:
        fail(str(error))


@app.command()
def overhead(
    model: Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,4,16,64",
    manifest: Annotated[
        Path | None, typer.Option(help="Recordings; by default speech from the moonshine wheel.")
    ] = None,
    utterances: Annotated[int, typer.Option(min=1, help="Utterances decoded in each round.")] = 128,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure the overhead of scheduler and engine over the bare model."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.overhead import measure
    from myna.streaming.errors import EngineUnavailableError

    sizes = numbers("--batch", batch)
    try:
        measure(model, sizes, manifest, utterances, as_json=json)
    except (EngineUnavailableError, AccuracyError) as error:
        fail(str(error))


@app.command()
def batch(
    manifest: Annotated[Path, typer.Option(help="JSON lines with audio and text; see docs/accuracy.md.")],
    minutes: Annotated[str, typer.Option(help="Minutes of the files made from them, separated by commas.")] = "5,20",
    model: Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")] = None,
    live: Annotated[bool, typer.Option(help="Also run a live stream meanwhile.")] = False,
    accuracy: Annotated[
        bool, typer.Option(help="Also measure the word error rate of the recordings as files.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure files: speed against the bare engine, memory, accuracy, and the finals of a concurrent live stream."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.batch import measure

    try:
        lengths = [float(length) for length in minutes.split(",")]
        measure(manifest, lengths, model, live=live, accuracy=accuracy, as_json=json)
    except ValueError:
        fail(f"--minutes must be numbers separated by commas, such as 5,20, not {minutes!r}")
    except AccuracyError as error:
        fail(str(error))


@app.command()
def turns(
    manifest: Annotated[Path, typer.Option(help="JSON lines with audio and text; see docs/accuracy.md.")],
    live: Annotated[
        bool, typer.Option(help="Stream in real time to Flux; by default policies are swept in this process.")
    ] = False,
    thresholds: Annotated[str, typer.Option(help="End-of-turn thresholds, separated by commas.")] = "0.5,0.7,0.85",
    eager: Annotated[float | None, typer.Option(help="Eager threshold of --live, for all of them.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of a running server for --live; by default one is started.")
    ] = None,
    api_key: ApiKey = None,
    streams: Annotated[int, typer.Option(min=1, help="Recordings that --live streams at a time.")] = 6,
    group: Annotated[list[str] | None, typer.Option(help="Measure only this group; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Model: a name, a .nemo file or a hub name.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Measure turns: how often a pause inside a turn ends it, and how long after the last word turns end."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.turns import Setting, measure, sweep
    from myna.streaming.errors import EngineUnavailableError

    if not live and (eager is not None or url is not None):
        fail(f"--{'url' if eager is None else 'eager'} needs --live")
    try:
        settings = [Setting(float(threshold), eager) for threshold in thresholds.split(",")]
    except ValueError:
        fail(f"--thresholds must be numbers separated by commas, such as 0.5,0.7, not {thresholds!r}")
    try:
        if not live:
            sweep(manifest, [one.end for one in settings], groups=group or [], model=model, as_json=json)
            return
        measure(
            manifest, settings, url=url, api_key=api_key, groups=group or [], model=model, streams=streams, as_json=json
        )
    except (AccuracyError, EngineUnavailableError) as error:
        fail(str(error))


@app.command()
def speakers(
    source: Annotated[
        Path,
        typer.Argument(help="A manifest of which conversations are composed, or a folder of audio with RTTM files."),
    ],
    live: Annotated[bool, typer.Option(help="Stream them; otherwise they are files.")] = False,
    speed: Annotated[float, typer.Option(min=0, help="Multiple of real time; 0: as fast as possible.")] = 0.0,
    streams: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 1,
    kinds: Annotated[str, typer.Option(help="Kinds of conversations, separated by commas.")] = "mono,two,three,four",
    conditions: Annotated[str, typer.Option(help="Of clean, room and phone.")] = "clean,room,phone",
    number: Annotated[int, typer.Option(min=1, help="Conversations of each kind, each in every condition.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed composes other conversations.")] = 1,
    keep: Annotated[Path | None, typer.Option(help="A folder in which the composed conversations stay.")] = None,
    server_flag: Annotated[list[str] | None, typer.Option(help="Flag of the server; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Measure speakers: words with the wrong speaker, diarization error rate, number of speakers and CPU time."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.conversations import CONDITIONS, KINDS
    from myna.bench.speakers import SpeakerPlan, measure

    plan = SpeakerPlan(
        source, tuple(kinds.split(",")), tuple(conditions.split(",")), number, seed, live, speed, streams, keep,
        tuple(server_flag or ()),
    )  # fmt: skip
    for flag, given, known in (("--kinds", plan.kinds, KINDS), ("--conditions", plan.conditions, CONDITIONS)):
        if unknown := [name for name in given if name not in known]:
            fail(f"{flag} must be of {', '.join(known)}, separated by commas, not {unknown[0]!r}")
    try:
        measure(plan, as_json=json)
    except AccuracyError as error:
        fail(str(error))


@app.command()
def load(
    manifest: Annotated[Path, typer.Option(help="JSON lines with audio and text; see docs/accuracy.md.")],
    streams: Annotated[str, typer.Option(help="Numbers of concurrent streams, separated by commas.")] = "1,2,4,8,16",
    url: Annotated[str | None, typer.Option(help="Address of a running server; by default one is started.")] = None,
    dialect: Annotated[str, typer.Option(help="Protocol: native or deepgram.")] = "native",
    api_key: ApiKey = None,
    model: Annotated[str | None, typer.Option(help="Model of the server that is started.")] = None,
    seconds: Annotated[float, typer.Option(min=15, help="Seconds of each stream.")] = 60.0,
    target_ms: Annotated[
        int, typer.Option(min=1, help="Target for the p95 delay of finals after their endpoint.")
    ] = 700,
    interim_every_s: Annotated[float, typer.Option(help="Setting of the server that is started.")] = 1.0,
    speakers: Annotated[bool, typer.Option(help="The streams ask for speakers.")] = False,
    in_phase: Annotated[bool, typer.Option("--in-phase", help="Start all streams at the same moment.")] = False,
    beside: Annotated[bool, typer.Option(help="Also measure a plain loop around sherpa-onnx.")] = False,
    beside_busy: Annotated[bool, typer.Option(help="Also measure while another program keeps a core busy.")] = False,
    server_flag: Annotated[list[str] | None, typer.Option(help="Flag of the server; may be repeated.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for load.json and load.svg.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure how many real-time streams a server can serve: delays, words, refusals, CPU and memory at each number."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.load import Plan, measure
    from myna.streaming.errors import EngineUnavailableError

    if dialect not in ("native", "deepgram"):
        fail(f"--dialect must be native or deepgram, not {dialect!r}")
    plan = Plan(
        counts=tuple(numbers("--streams", streams)), manifest=manifest, seconds=seconds, url=url,
        dialect=dialect, api_key=api_key, model=model, target_ms=target_ms, staggered=not in_phase,
        interim_every_s=interim_every_s, flags=tuple(server_flag or ()), speakers=speakers, beside=beside,
        beside_busy=beside_busy,
    )  # fmt: skip
    try:
        measure(plan, report, as_json=json)
    except (AccuracyError, EngineUnavailableError) as error:
        fail(str(error))


@app.command()
def front(
    manifest: Annotated[Path, typer.Option(help="JSON lines with audio and text; see docs/accuracy.md.")],
    streams: Annotated[str, typer.Option(help="Numbers of concurrent streams, separated by commas.")] = "100,200,300",
    fronts: Annotated[int, typer.Option(min=0, help="Front processes; 0: a server of one process.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure the cost of connections, sessions and voice activity detection, with an engine that costs nothing."""
    from myna.bench.accuracy import AccuracyError
    from myna.bench.front import measure

    counts = numbers("--streams", streams)
    try:
        measure(manifest, counts, fronts, as_json=json)
    except AccuracyError as error:
        fail(str(error))


@app.command()
def containers(
    file: Annotated[Path, typer.Argument(help="Speech; it is repeated to the given length.")],
    streams: Annotated[int, typer.Option(min=1, help="Concurrent streams.")] = 8,
    seconds: Annotated[float, typer.Option(min=5, help="Seconds of each stream.")] = 20.0,
    model: Annotated[str | None, typer.Option(help="Model of the server that is started.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure the cost of live streams in containers against raw ones."""
    from myna.bench.containers import measure
    from myna.clients.files import UnreadableFileError
    from myna.streaming.errors import EngineUnavailableError

    try:
        measure(file, streams, seconds, model, as_json=json)
    except (UnreadableFileError, EngineUnavailableError) as error:
        fail(str(error))


@app.command()
def memory(
    file: Annotated[Path, typer.Argument(help="Speech; it is sent repeatedly.")],
    minutes: Annotated[float, typer.Option(min=2, help="Minutes of audio to send.")] = 60.0,
    model: Annotated[str | None, typer.Option(help="Model of the server that is started.")] = None,
) -> None:
    """Send hours of audio through one stream as fast as possible, and measure the server's memory."""
    from myna.bench.memory import measure
    from myna.clients.files import UnreadableFileError

    try:
        measure(file, minutes, model)
    except UnreadableFileError as error:
        fail(str(error))
