#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>

#include "text/unicode.h"
#include "text/utf8.h"
#include "util/str_cat.h"

namespace edgekiln::text {

namespace {

// Far above the steps that the patterns of known tokenizers take on megabytes of text, and a few seconds of time.
constexpr std::uint32_t kMaxSteps = 200'000'000;
constexpr std::uint32_t kMaxHeapKib = 512 * 1024;

const std::uint8_t* bytes_of(std::string_view text) {
  const void* data = text.data();
  return static_cast<const std::uint8_t*>(data);
}

struct MatchState {
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data{pcre2_match_data_create(1, nullptr),
                                                                           &pcre2_match_data_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context{pcre2_match_context_create(nullptr),
                                                                                    &pcre2_match_context_free};

  MatchState() {
    pcre2_set_match_limit(context.get(), kMaxSteps);
    pcre2_set_heap_limit(context.get(), kMaxHeapKib);
  }
};

// `text` with the characters that PCRE2 does not know substituted, each by one of equal size; empty if there are none.
std::string with_known_characters(std::string_view text) {
  std::string changed;
  for (std::size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0xE0) {  // no character below U+0800 is substituted
      ++at;
      continue;
    }
    const CodePoint next = code_point_at(text, at);
    if (const char32_t known = substitute_unknown(next.value); known != next.value) {
      if (changed.empty()) changed = text;
      std::string bytes;
      append(bytes, known);
      changed.replace(at, next.size, bytes);
    }
    at += next.size;
  }
  return changed;
}

}  // namespace

Result<Regex> Regex::compile(std::string_view pattern) {
  const auto translated = to_pcre2(pattern);
  if (!translated.has_value()) return std::unexpected(translated.error());
  const std::string& own = translated.value();
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  std::size_t offset = 0;
  pcre2_code* compiled = pcre2_compile(
      bytes_of(own), own.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK,
      &code, &offset, context.get());
  if (compiled == nullptr) {
    std::array<std::uint8_t, 256> reason{};
    const int length = pcre2_get_error_message(code, reason.data(), reason.size());
    const std::string why(reason.begin(), reason.begin() + (length > 0 ? length : 0));
    return fail(Code::kUnsupported, "the pattern ", pattern, " with ", why);
  }
  // Without JIT support matching is slower but gives the same matches.
  static_cast<void>(pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE));
  return Regex(std::shared_ptr<const void>(compiled, [compiled](const void*) { pcre2_code_free(compiled); }));
}

Result<void> Regex::find(std::string_view given, std::vector<Span>& matches) const {
  const std::string changed = with_known_characters(given);
  const std::string_view text = changed.empty() ? given : changed;
  static thread_local const MatchState state;
  if (!state.data || !state.context) return fail(Code::kMemory, "no memory to match a pattern: free some");
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  std::size_t at = 0;
  std::size_t last_end = std::string_view::npos;
  while (at <= text.size()) {
    constexpr std::uint32_t kValid = PCRE2_NO_UTF_CHECK;
    const auto match = [&](std::uint32_t options) {
      return pcre2_match(code, bytes_of(text), text.size(), at, options, state.data.get(), state.context.get());
    };
    int found = match(kValid);
    // The JIT stack is small; the interpreter uses the heap instead.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(kValid | PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0)
      return fail(Code::kRequest, "a text of ", text.size(), " bytes is too much for a pattern of the tokenizer",
                  " (PCRE2 error ", found, "): give less at once");
    const std::size_t* ends = pcre2_get_ovector_pointer(state.data.get());
    const Span span{ends[0], ends[1]};
    if (span.begin == span.end && span.end == last_end) {
      if (span.end == text.size()) break;
      at = span.end + code_point_at(text, span.end).size;
      continue;
    }
    matches.push_back(span);
    at = last_end = span.end;
  }
  return {};
}

}  // namespace edgekiln::text
