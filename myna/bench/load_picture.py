"""Draw the picture of the load bench: delay of finals and word error rate over the number of streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from myna.bench.accuracy import AccuracyError
from myna.bench.load_report import Report


def draw(reports: Sequence[Report], path: Path) -> None:
    """Write the picture as SVG. Raises `AccuracyError` without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise AccuracyError("--report needs matplotlib: pip install 'myna[bench]'") from error
    mpl.use("svg")
    from matplotlib import pyplot

    figure, (delay, words) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for report, colour in zip(reports, ("tab:blue", "tab:orange"), strict=False):
        counts = [level.streams for level in report.levels]
        delay.plot(
            counts, [level.final_p95_ms for level in report.levels], "o-", color=colour, label=f"{report.what}, p95"
        )
        delay.plot(counts, [level.final_p50_ms for level in report.levels], ".:", color=colour, label="p50")
        words.plot(counts, [level.wer for level in report.levels], "o-", color=colour, label=report.what)
        if any(level.wer_alone is not None for level in report.levels):
            alone = [level.wer_alone for level in report.levels]
            words.plot(counts, alone, ".:", color=colour, label="the same streams one by one")
    delay.axhline(reports[0].target_ms, color="grey", linewidth=0.8)
    delay.set(ylabel="final after its endpoint, ms", ylim=(0, 4 * reports[0].target_ms))
    words.set(ylabel="word error rate, %", xlabel="streams at once", ylim=(0, None))
    for axes in (delay, words):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path)
    pyplot.close(figure)
