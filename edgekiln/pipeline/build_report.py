"""report.json of an engine: times, memory, file sizes and notes of its build."""

from pathlib import Path
from typing import Any

from edgekiln.benchmark import peak_rss_mb
from edgekiln.engine.directory import ENGINE_FILE, REPORT_FILE, write_json
from edgekiln.engine.reports import BuildReport, read_report
from edgekiln.progress import StepTimer


def build_report(timer: StepTimer, notes: list[str], directory: Path, step_weight_bytes: int) -> BuildReport:
    """The report of a build whose files, but for the report and the manifest, are in `directory`."""
    return BuildReport(**_measured(timer, directory), step_weight_bytes=step_weight_bytes, notes=notes)


def update_build_report(timer: StepTimer, notes: list[str], directory: Path) -> None:
    """Rewrite report.json after a further step: measure again and append `notes` that are new."""
    report = read_report(directory)
    update = {**_measured(timer, directory), "notes": list(dict.fromkeys([*report.notes, *notes]))}
    write_json(directory / REPORT_FILE, report.model_copy(update=update).model_dump())


def _measured(timer: StepTimer, directory: Path) -> dict[str, Any]:
    return {
        "build_seconds": round(sum(timer.seconds.values()), 2),
        "steps": timer.seconds,
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "sizes": _sizes(directory),
    }


def _sizes(directory: Path) -> dict[str, int]:
    """Bytes of each file, without those that are written after the report."""
    written_later = (REPORT_FILE, ENGINE_FILE)
    return {path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.name not in written_later}
