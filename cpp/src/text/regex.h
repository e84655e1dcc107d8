// The regular expressions of `tokenizers` (Oniguruma with Ruby syntax), executed by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "util/result.h"

namespace edgekiln::text {

struct Span {
  std::size_t begin;
  std::size_t end;
};

// Immutable and therefore thread-safe.
class Regex {
 public:
  // An error of Code::kUnsupported, which names the construct, if PCRE2 has no equivalent of it.
  static Result<Regex> compile(std::string_view pattern);

  // Append all non-overlapping matches; an empty match directly after another match is skipped. `text` must be valid
  // UTF-8.
  //
  // An error of Code::kRequest if the pattern exceeds the step limit on the text.
  Result<void> find(std::string_view text, std::vector<Span>& matches) const;

 private:
  explicit Regex(std::shared_ptr<const void> code) : code_(std::move(code)) {}

  std::shared_ptr<const void> code_;
};

// Translate an Oniguruma pattern to PCRE2. Errors are those of Regex::compile.
Result<std::string> to_pcre2(std::string_view pattern);

}  // namespace edgekiln::text
