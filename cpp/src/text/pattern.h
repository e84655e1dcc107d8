// A pattern of a tokenizer component: a plain string or a regular expression.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace edgekiln::text {

using Pattern = std::variant<std::string, Regex>;

// Append all non-overlapping matches. Errors are those of Regex::find.
Result<void> find(const Pattern& pattern, std::string_view text, std::vector<Span>& matches);

// `text` with each match replaced by `content`. Errors are those of Regex::find.
Result<std::string> replaced(const Pattern& pattern, std::string_view text, std::string_view content);

}  // namespace edgekiln::text
