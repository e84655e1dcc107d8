"""Retired words stay out of the tree: each has one replacement, see docs/glossary.md."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".cpp", ".h", ".hpp", ".c", ".md", ".txt", ".cmake", ".json", ".toml", ".jinja", ""}
# What others call these things is not ours to rename.
THIRD_PARTY = re.compile(r"GGML_NATIVE|native_(?:layer|batch|group)_norm|lm-evaluation-harness|[Aa]lternative")

# retired -> the word to use instead
RETIRED = {
    r"\bnative|Native|\bnatively\b": "edgekiln kernels, or standard ONNX ops",
    r"\b[Ss]tock\b|STOCK": "onnxruntime",
    r"[Ll]asting_?\s?[Mm]emory|LastingBytes": "weight arena",
    r"file_pages|\bgiv(?:e|es|en|ing)[ _]back\b|\bgave back\b": "mapped file, drop mapped pages",
    r"\b(?:few|many)[_ ]rows\b|run_rows": "gemv / gemm, decode / prefill",
    r"[Cc]ode_?[Pp]anels|Int8Panels|panel_numbers|\bkMiddle\b|\bminima\b": "packed weights, GroupParams, zero point, group bias",
    r"row_quantized|RowQuantized|QuantizedProduct|quantized_product": "per-token int8 GEMM",
    r"prompt_(?:panels|tiles)|brought to 8 bits": "q4 prefill GEMM, requantize",
    r"emulated_tiles|tiles\.h\b|pairs\.h\b": "amx_emulated, amx.h, bf16.h",
    r"coded_attention|CodedQuery": "int8 KV attention, quantized query",
    r"\bSeen\b|rounded[_ ]attention|RoundedAttention": "mask range, bf16 attention",
    r"between_layer|[Bb]etween_?\s?[Aa]ttentions|[Bb]etween_?[Ll]ayer": "post-attention block",
    r"[Ss]hort_?list|\bask_for\b": "two-pass LM head, candidates, prefetch",
    r"packed_heads|PackedHeads|\bPreparation\b": "QKV prologue",
    r"gated_silu|[Gg]ated_?[Ss]ilu|\bskip_norm\b|\bSkipNorm\b|gather_rows|GatherRows": "swiglu, skip RMS norm, gather_block_quantized",
    r"\b[Bb]undles?\b|BundleError": "engine directory, manifest, EngineError",
    r"\bhand(?:s|ed|ing)?_?[ -]?over\b|[Hh]andover": "save_compressed_tensors",
    r"\bProducers?\b|\bfind_readers\b|\bReaders\b": "layer groups, source",
    r"\bas_seen\b": "fake_quantize",
    r"raise_worst|\braised layers?\b|\blayers? (?:are|is) raised\b": "promote sensitive layers",
    r"[Ss]elf_?[ -]?text\b|\b[Ss]keletons?\b|build_skeleton": "synthetic calibration data, meta model",
    r"chat[_ ]pieces?|Chat_?Pieces|CHAT_PIECES": "chat segments",
    r"EntangledLayersError|\bentangled\b": "layer deduplication",
    r"logits_start|keep_early": "logits_to_keep",
    r"share_orders|\bhanded_on\b|\bwrite_out\b": "share act-order, ref attributes, inline functions",
    r"RowsRuntime|\.verifies\b|\bverifies\s*[:=]|\bTOGETHER\b|\bDrafts\b": "ChunkedRuntime, max_verify_tokens, SpeculationStats",
    r"edgekiln\.harness|\bmachine\.look\b|\bFigures\b": "lm_eval, system.detect, benchmark result",
    r"\beveryone\b|\bsurroundings\b|\bfrom[_ ]nothing\b|\bparted\b|\bclass Way\b": "engines, environment, cold start, diverged",
    r"\bfamiliar\(|\bsentence\(|\bEnding\b": "substitute_unknown, str_cat, Finish",
    r"[Bb]inary_?16": "float16",
    r"\b[A-Z]\w*Record\b|\bclass Record\b": "report, result",
    r"\bstatic_inputs?\b|\brefine_|\bsmooth:": "static activation scales, coordinate descent, smoothquant, rtn",
    r"\btracing\.experts\b|\bexperts\.py\b": "MoE",
    r"\bmap_rows\b|\brow_parallel\b|\b[Bb]atch[_ ]rows?\b|ragged_rows": "n, k, m; sequence; ragged batch",
    r"\bPanelNumbers\b|\bNumbers\b(?! (?:of|and)\b)|\bwiden(?:s|ed)?\b": "GroupParams, requantize",
    r"\binplace\b|\bKeyValueLayout\b|\bkv\.kind\b": "in-place, kv_cache.layout",
    r"\bedgekiln_finish\b|edgekiln_generate_options_of": "edgekiln_finish_reason, edgekiln_engine_get_sampling",
    r"EMULATED_TILES|\bkTiles\b": "AMX_EMULATED",
    r"\bmeasure_request\b|\bmaking\b": "benchmark_request, prepare",
    r"\b[Ee]xpressible|\bsuiting\(|\bround_(?:rows|static)\b": "supported, matching, fake_quantize",
    r"\bStoredWeight\b|\.stored\(": "PrequantizedWeight, prequantized",
}


def tree() -> list[Path]:
    """Files of the project that people read or compile."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [
        ROOT / name
        for name in names
        if Path(name).suffix in TEXT
        and not name.startswith(("LICENSE", "tests/test_words.py", "CHANGELOG", "bench/texts"))
    ]


@pytest.mark.parametrize("pattern", RETIRED)
def test_retired_words_are_gone(pattern: str) -> None:
    word = re.compile(pattern)
    found = [f"use {RETIRED[pattern]}"]
    for path in tree():
        if not path.is_file():
            continue
        if word.search(path.name):
            found.append(f"{path.relative_to(ROOT)}: its name")
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if word.search(THIRD_PARTY.sub("", line)):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert len(found) == 1, "\n".join(found)
