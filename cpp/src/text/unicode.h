// Properties and normalization of characters as `tokenizers` has them, whichever Unicode the libraries here know.
#pragma once

#include <string>
#include <string_view>

namespace edgekiln::text {

// Unicode's White_Space.
bool is_space(char32_t code_point);

// Categories Nd, Nl and No.
bool is_number(char32_t code_point);

// What `\w` is in regular expressions: letters, marks, digits, connectors, joiners.
bool is_word(char32_t code_point);

// `code_point`, or if the libraries here do not know it as patterns do, one that is no longer or shorter in UTF-8, of
// the same category and, if it is Han, Han.
char32_t substitute_unknown(char32_t code_point);

enum class Form { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8.
std::string normalized(std::string_view text, Form form);
std::string lower_case(std::string_view text);

}  // namespace edgekiln::text
