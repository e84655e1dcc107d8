"""libedgekiln with programs that were compiled against an older or a newer header, whose structs differ in size."""

import re
import subprocess
from pathlib import Path

import pytest

from support.cpp_host import BUILD, ROOT

HEADER = (ROOT / "cpp" / "include" / "edgekiln" / "edgekiln.h").read_text()
LIBRARY = BUILD / "lib" / "libedgekiln.so"
# Programs that load a library with sanitizers must be built with them too.
SANITIZE = re.findall(r"EDGEKILN_SANITIZE:\w+=(.+)", (BUILD / "CMakeCache.txt").read_text())
# Last fields that the older header lacks; the program below uses none of them.
NEWEST = {
    "edgekiln_engine_options": ("kernels_library", "device", "verify", "text", "pack_cache", "reserved"),
    "edgekiln_engine_info": ("threads", "max_verify_tokens", "has_text", "has_chat"),
    "edgekiln_generate_options": (
        "has_seed",
        "ignore_eos",
        "logprobs",
        "speculate",
        "special_tokens",
        "reserved",
        "mask",
        "mask_data",
    ),
    "edgekiln_message": ("parse_special", "reserved"),
    "edgekiln_summary": ("first_token_s", "total_s", "finish_reason", "reserved"),
}
PROGRAM = r"""
#include <edgekiln/edgekiln.h>
#include <stdio.h>
#include <stdlib.h>

/* A struct between canaries, which the library must not change. */
#define GUARDED(type) struct { unsigned char before[64]; type value; unsigned char after[64]; }

static void set(unsigned char* canary) { memset(canary, 0xA5, 64); }

static void check(const unsigned char* canary) {
  for (int i = 0; i < 64; ++i) if (canary[i] != 0xA5) abort();
}

static int print(const edgekiln_token* token, void* user_data) {
  if (token->struct_size < sizeof *token) return 1;
  printf("%lld ", (long long)token->id);
  ++*(int*)user_data;
  return 0;
}

static int fail(void) {
  printf("%s\n", edgekiln_error());
  return 1;
}

int main(int count, char** arguments) {
  GUARDED(edgekiln_engine_options) engine_options;
  GUARDED(edgekiln_engine_info) info;
  GUARDED(edgekiln_generate_options) options;
  GUARDED(edgekiln_summary) summary;
  edgekiln_message messages[] = {EDGEKILN_MESSAGE("system", "Be kind."), EDGEKILN_MESSAGE("user", "Hi")};
  edgekiln_engine* engine = NULL;
  edgekiln_session* session = NULL;
  int tokens = 0;
  if (count != 2) return 2;
  set(engine_options.before), set(engine_options.after), set(info.before), set(info.after);
  set(options.before), set(options.after), set(summary.before), set(summary.after);

  edgekiln_engine_options_init(&engine_options.value);
  engine_options.value.threads = 1;
  SET_ENGINE
  if (edgekiln_engine_open(arguments[1], &engine_options.value, &engine)) return fail();
  edgekiln_engine_info_init(&info.value);
  if (edgekiln_engine_get_info(engine, &info.value)) return fail();
  if (info.value.struct_size != sizeof info.value || info.value.vocab_size != 320) return 3;
  edgekiln_generate_options_init(&options.value);
  if (edgekiln_engine_get_sampling(engine, &options.value)) return fail();
  options.value.temperature = 0;
  options.value.max_tokens = 5;
  SET_GENERATE
  if (edgekiln_session_create(engine, &session)) return fail();
  edgekiln_summary_init(&summary.value);
  if (edgekiln_generate_chat(session, messages, 2, &options.value, print, &tokens, &summary.value)) return fail();
  if (summary.value.generated_tokens != tokens || summary.value.struct_size != sizeof summary.value) return 4;
  CHECK_UNKNOWN

  check(engine_options.before), check(engine_options.after), check(info.before), check(info.after);
  check(options.before), check(options.after), check(summary.before), check(summary.after);
  edgekiln_session_free(session);
  edgekiln_engine_close(engine);
  printf("\n%d %d\n", (int)sizeof options.value, (int)sizeof messages[0]);
  return 0;
}
"""


def header(change: str) -> str:
    """edgekiln.h as an older or a newer version would have it."""
    text = HEADER
    for name, fields in NEWEST.items():
        start = text.index(f"typedef struct {name} {{")
        end = text.index(f"}} {name};", start)
        body = text[start:end]
        if change == "older":
            for field in fields:
                body, found = re.subn(rf"^  [^\n]*\b{field};[^\n]*\n", "", body, flags=re.MULTILINE)
                assert found == 1, field
        elif change == "newer":
            body += "  const char* name;\n" if name == "edgekiln_message" else "  int64_t future[3];\n"
        text = text[:start] + body + text[end:]
    initializer = {"older": "(content)}", "same": "(content), 0, 0}", "newer": "(content), 0, 0, 0}"}
    return text.replace(initializer["same"], initializer[change])


def run(
    directory: Path, engine: Path, change: str = "same", engine_field: str = "", field: str = "", check: str = ""
) -> tuple[int, list[str]]:
    (directory / "edgekiln").mkdir(exist_ok=True)
    (directory / "edgekiln" / "edgekiln.h").write_text(header(change))
    program = PROGRAM.replace("SET_ENGINE", engine_field).replace("SET_GENERATE", field)
    (directory / "program.c").write_text(program.replace("CHECK_UNKNOWN", check))
    strict = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *(f"-fsanitize={name}" for name in SANITIZE))
    command = ["cc", *strict, "-I", directory, directory / "program.c", LIBRARY, f"-Wl,-rpath,{LIBRARY.parent}"]
    subprocess.run([*map(str, command), "-o", str(directory / "program")], check=True)
    done = subprocess.run([directory / "program", engine], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines()


def test_other_headers_give_the_same_answer(tiny_engine: Path, tmp_path: Path) -> None:
    status, (ids, size) = run(tmp_path, tiny_engine)
    assert status == 0
    assert len(ids.split()) <= 5
    sizes = {"same": size}
    for change in ("older", "newer"):
        status, (changed_ids, sizes[change]) = run(tmp_path, tiny_engine, change)
        assert (status, changed_ids) == (0, ids), change
    assert len(set(sizes.values())) == 3


def test_new_fields_are_filled_with_zero(tiny_engine: Path, tmp_path: Path) -> None:
    check = "if (info.value.future[2] || summary.value.future[0]) return 5;"
    assert run(tmp_path, tiny_engine, "newer", check=check)[0] == 0


@pytest.mark.parametrize(
    ("engine_field", "field", "name"),
    [
        ("engine_options.value.future[2] = 1;", "", "edgekiln_engine_options"),
        ("", "options.value.future[0] = 1;", "edgekiln_generate_options"),
        ("", 'messages[1].name = "x";', "edgekiln_message"),
    ],
)
def test_new_fields_that_are_set_are_refused(
    engine_field: str, field: str, name: str, tiny_engine: Path, tmp_path: Path
) -> None:
    status, (message,) = run(tmp_path, tiny_engine, "newer", engine_field, field)
    assert status == 1
    assert re.fullmatch(
        rf"{name} has \d+ bytes, libedgekiln [\d.]+ knows \d+, and a field behind them is set: "
        "leave it at zero, or upgrade libedgekiln",
        message,
    )


@pytest.mark.parametrize(
    ("engine_field", "field", "message"),
    [
        (
            "engine_options.value.struct_size = 0;",
            "",
            "struct_size of edgekiln_engine_options is 0: initialize the struct with edgekiln_engine_options_init",
        ),
        (
            "",
            "options.value.struct_size = 0;",
            "struct_size of edgekiln_generate_options is 0: initialize the struct with edgekiln_generate_options_init",
        ),
        (
            "",
            "messages[0].struct_size = 0;",
            "struct_size of edgekiln_message is 0: initialize the struct with EDGEKILN_MESSAGE",
        ),
        (
            "",
            "messages[1].struct_size = 16;",
            "struct_size of message 2 is 16, of message 1 32: initialize each with EDGEKILN_MESSAGE",
        ),
        (  # reaches beyond the array
            "",
            "messages[1].struct_size = 4096;",
            "struct_size of message 2 is 4096, of message 1 32: initialize each with EDGEKILN_MESSAGE",
        ),
    ],
)
def test_structs_that_are_not_initialized(
    engine_field: str, field: str, message: str, tiny_engine: Path, tmp_path: Path
) -> None:
    assert run(tmp_path, tiny_engine, engine_field=engine_field, field=field) == (1, [message])


def test_ids_outside_the_vocabulary_have_no_text(tiny_engine: Path, tmp_path: Path) -> None:
    field = "int64_t id = 320; size_t length; if (edgekiln_detokenize(engine, &id, 1, NULL, 0, &length)) return fail();"
    message = "token id 320 is outside the vocabulary of 320: check the tokenizer"
    assert run(tmp_path, tiny_engine, field=f"{{ {field} }}") == (1, [message])


def test_the_examples_in_c_compile(tmp_path: Path) -> None:
    blocks = re.findall(r"```c\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
    assert any("edgekiln_generate_parts" in block for block in blocks)
    for text, length in re.findall(r'PROMPT_PART\("(.*?)", (\d+),', "".join(blocks)):
        assert len(text.replace("\\n", "\n")) == int(length)
    source = tmp_path / "example.c"
    headers = "#include <edgekiln/edgekiln.h>\n#include <stdio.h>\n#include <string.h>\n"
    functions = [block for block in blocks if block.startswith("static")]
    body = "".join(block for block in blocks if block not in functions)
    source.write_text(f"{headers}{''.join(functions)}int main(void) {{\n{body}return 0;\n}}\n")
    include = ROOT / "cpp" / "include"
    subprocess.run(["cc", "-std=c99", "-Wall", "-Werror", "-fsyntax-only", "-I", include, source], check=True)


def test_the_examples_in_cpp_compile(tmp_path: Path) -> None:
    blocks = re.findall(r"```cpp\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
    assert blocks
    include = ROOT / "cpp" / "include"
    for number, block in enumerate(blocks):
        source = tmp_path / f"example{number}.cpp"
        source.write_text(block)
        subprocess.run(["c++", "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", "-I", include, source], check=True)


@pytest.mark.skipif(bool(SANITIZE), reason="libraries with sanitizers export more symbols")
def test_soname_and_symbol_versions() -> None:
    dynamic = subprocess.run(["readelf", "-d", "-W", LIBRARY], capture_output=True, text=True, check=True).stdout
    # Until 1.0, a version may change the C API with its minor number.
    assert "Library soname: [libedgekiln.so.0.1]" in dynamic
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", LIBRARY], capture_output=True, text=True, check=True)
    exported = re.findall(r"(?:FUNC|OBJECT) +GLOBAL +DEFAULT +(\d+|ABS) +(\S+)", symbols.stdout)
    names = {name.split("@")[0] for section, name in exported if section != "ABS"}
    assert names == set(re.findall(r"EDGEKILN_API[^;]*?\b(edgekiln_\w+)\(", HEADER))
    assert {name.split("@@")[1] for section, name in exported if section != "ABS"} == {"EDGEKILN_0.1"}
