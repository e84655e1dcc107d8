// Regular expressions as `tokenizers` has them: Oniguruma's, in its Ruby syntax, run by PCRE2.
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

// For any number of threads.
class Regex {
 public:
  // An error of Code::kUnsupported, which says what of the pattern it is, if the two syntaxes differ there.
  static Result<Regex> compile(std::string_view pattern);

  // All matches one after another; an empty one not right after the match before. `text` is valid UTF-8.
  //
  // An error of Code::kRequest if the pattern takes too many steps on the text.
  Result<void> find(std::string_view text, std::vector<Span>& matches) const;

 private:
  explicit Regex(std::shared_ptr<const void> code) : code_(std::move(code)) {}

  std::shared_ptr<const void> code_;
};

// `pattern`, which is Oniguruma's, as PCRE2 writes it. An error as of Regex::compile.
Result<std::string> to_pcre2(std::string_view pattern);

}  // namespace edgekiln::text
