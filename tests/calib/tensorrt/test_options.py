"""Options of TensorRT engines: the forms of compute capabilities, and the options of each target."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekiln.calib.tensorrt.options import TensorRTOptions, parse_capabilities
from edgekiln.errors import RequestError
from edgekiln.pipeline.options import BuildOptions

CAPABILITIES = st.tuples(st.integers(1, 19), st.integers(0, 9))


@given(st.lists(CAPABILITIES, min_size=1, unique=True), st.sampled_from(["{}{}", "{}.{}", "sm_{}{}", " SM{}{} "]))
def test_capabilities_come_back_however_they_are_written(wanted: list[tuple[int, int]], form: str) -> None:
    text = ",".join(form.format(*capability) for capability in [*wanted, wanted[0]])
    assert parse_capabilities(text) == tuple(wanted)


@pytest.mark.parametrize(("text", "named"), [("", "''"), ("8", "'8'"), ("86,ada", "'ada'"), ("86,,89", "'86,,89'")])
def test_a_part_that_is_no_capability_is_named(text: str, named: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_capabilities(text)
    assert str(caught.value) == f"sm takes compute capabilities such as 86,89,120, got {named}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_batch": 0}, "max batch must be at least 1, got 0"),
        ({"chunk": -1}, "chunk must be at least 1, got -1"),
        ({"workspace_mb": 0}, "workspace must be at least 1, got 0"),
        ({"cache": "paged"}, "cache must be one of in-place, growing, got paged"),
        ({"dtype": "float64"}, "dtype must be one of float16, bfloat16, got float64"),
    ],
)
def test_values_out_of_range_are_named(given: dict, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        TensorRTOptions(**given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("trt", {"capabilities": ((8, 9),)}, "--sm is for target trt-rtx"),
        ("trt-rtx", {"timing_cache": Path("cache")}, "--timing-cache is for target trt"),
        ("trt-rtx", {"version_compatible": True}, "--version-compatible is for target trt"),
        ("trt-rtx", {"hardware_compatible": True}, "--hardware-compatible is for target trt"),
        ("trt-rtx", {"refit": True}, "TensorRT-RTX compiles --refit and --strip-weights for one compute capability"),
        ("ort-cpu", {"chunk": 64}, "options of TensorRT are for targets trt and trt-rtx, not ort-cpu"),
    ],
)
def test_an_option_of_another_target_is_refused(target: str, given: dict, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        BuildOptions(target=target, tensorrt=TensorRTOptions(**given))  # type: ignore[arg-type]
