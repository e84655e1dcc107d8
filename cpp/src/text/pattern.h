// What a text is cut or changed at: a string as it is, or a regular expression.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace edgekiln::text {

using Pattern = std::variant<std::string, Regex>;

// All matches, one after another. An error as of Regex::find.
Result<void> find(const Pattern& pattern, std::string_view text, std::vector<Span>& matches);

// `text` with `content` in the place of each match.
Result<std::string> replaced(const Pattern& pattern, std::string_view text, std::string_view content);

}  // namespace edgekiln::text
