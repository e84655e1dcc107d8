// Character properties and normalization with the Unicode versions of `tokenizers`, which differ from those of the
// libraries used here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace edgekiln::text {

// Unicode's White_Space.
bool is_space(char32_t code_point);

// Categories Nd, Nl and No.
bool is_number(char32_t code_point);

// `\w` in regular expressions: letters, marks, digits, connectors, joiners.
bool is_word(char32_t code_point);

// `code_point`, or if PCRE2's Unicode version has no or another category for it, a character that PCRE2 knows: of the
// category in `tokenizers`, of the same UTF-8 size, and Han for Han.
char32_t substitute_unknown(char32_t code_point);

enum class Form { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8.
std::string normalized(std::string_view text, Form form);
std::string lower_case(std::string_view text);

// Sections of `text`, in order and without gaps, whose normalizations together are that of `text`.
std::vector<Span> normalization_sections(std::string_view text, Form form);

}  // namespace edgekiln::text
