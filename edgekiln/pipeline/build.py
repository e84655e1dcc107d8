"""Build an engine directory from a model: calibrate, assemble, quantize the KV cache, evaluate, try it."""

import dataclasses
from functools import partial
from pathlib import Path

from edgekiln.calib.data.options import FEW_WINDOWS
from edgekiln.calib.torch_threads import limited_torch_threads
from edgekiln.engine.directory import ENGINE_FILE, REPORT_FILE, atomic_directory, sha256, write_json
from edgekiln.engine.manifest import EngineManifest, write_manifest
from edgekiln.engine.output_file import check_output_file
from edgekiln.engine.utf8_path import is_utf8
from edgekiln.errors import EngineError
from edgekiln.pipeline.assemble import assemble, check_strict
from edgekiln.pipeline.build_report import update_build_report
from edgekiln.pipeline.calibration import calibrated, calibration_windows
from edgekiln.pipeline.chat_segments import check_chat_templates
from edgekiln.pipeline.content_parts import with_content_parts
from edgekiln.pipeline.int8_kv_cache import quantize_kv_cache
from edgekiln.pipeline.lowering import lowering_of
from edgekiln.pipeline.options import BuildOptions
from edgekiln.pipeline.quality import add_quality, quality_tokens
from edgekiln.pipeline.replaced_engine import may_replace
from edgekiln.pipeline.smoke_run import smoke_run
from edgekiln.progress import Progress, StepTimer
from edgekiln.sources.base import ModelSource


@limited_torch_threads()
def build_engine(
    source: ModelSource, output: Path, options: BuildOptions, progress: Progress | None = None
) -> EngineManifest:
    """Build an engine directory at `output`, atomically.

    Args:
        source: the model.
        output: directory to make; an engine of the same model there is replaced, one of another model with `force`.
        options: target, quantization and length.
        progress: called with the name of the step and the share of it that is done, in [0, 1].

    Raises:
        UnsupportedModelError: the canonical graph or the target does not support the model.
        EdgekilnError: the library that compiles for the target is not installed.
        RequestError: a length beyond the model's context, an evaluation text without tokens, or, with
            `options.strict`, a model of which too much stays in floating point.
        EngineError: `output` cannot be written or replaced, or the finished engine does not run.
    """
    timer = StepTimer(progress) if progress else StepTimer()
    # Errors that can be detected early are raised before the first slow step.
    lowering, lowering_options = lowering_of(source, options)
    lowering.check(lowering_options)
    check_chat_templates(source)
    source = with_content_parts(source)
    if lowering.compile is not None and not is_utf8(output.resolve()):
        raise EngineError(f"the path {output} is not UTF-8, so TensorRT cannot open it: choose another output with -o")
    if options.tensorrt.timing_cache is not None:
        check_output_file(options.tensorrt.timing_cache)
    if options.quality_text is not None:
        quality_tokens(source, options.quality_text)
    calibrates = options.chosen_recipe.calibrates or bool(options.chosen_limits)
    if options.strict and calibrates:
        check_strict(source, options)
    original = source
    replaces = partial(may_replace, output, model_id=source.model_id, force=options.force)
    with atomic_directory(output, replaces, reads=source.local_paths()) as directory:
        if calibrates:
            timer.step("calibrate")
            source, recipe = calibrated(
                source, options.chosen_recipe, options.data, options.chosen_limits, timer.progress
            )
            options = dataclasses.replace(options, recipe=recipe)
        manifest = assemble(source, directory, options, timer)
        if options.kv == "int8":
            manifest = _quantize_kv_cache(original, directory, manifest, options, timer)
        if options.quality_text is not None:
            timer.step("evaluate")
            text, report = options.quality_text, partial(timer.progress, "evaluate")
            manifest = add_quality(directory, manifest, original, text, report)
        manifest = _try(directory, manifest, timer)
    timer.progress("done", 1.0)
    return manifest


def _quantize_kv_cache(
    source: ModelSource, directory: Path, manifest: EngineManifest, options: BuildOptions, timer: StepTimer
) -> EngineManifest:
    timer.step("calibrate the KV cache")
    data = options.data if options.data.samples else dataclasses.replace(options.data, samples=FEW_WINDOWS)
    windows, notes = calibration_windows(source, data, timer.progress)
    manifest = quantize_kv_cache(directory, manifest, windows, partial(timer.progress, "calibrate the KV cache"))
    timer.step("finish")
    update_build_report(timer, notes, directory)
    return write_manifest(directory, **manifest.model_dump(exclude={"files"}))


def _try(directory: Path, manifest: EngineManifest, timer: StepTimer) -> EngineManifest:
    """Run the finished engine, and add the duration and the notes to its report. Only the report is hashed again."""
    timer.step("smoke run")
    notes = smoke_run(directory, manifest)
    timer.step("finish")
    update_build_report(timer, notes, directory)
    files = manifest.files | {REPORT_FILE: sha256(directory / REPORT_FILE)}
    manifest = manifest.model_copy(update={"files": files})
    write_json(directory / ENGINE_FILE, manifest.model_dump())
    return manifest
