// Iteration over UTF-8, validation and repair.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace edgekiln::text {

struct CodePoint {
  char32_t value;
  std::size_t size;  // in bytes
};

// The code point that starts at `at` < text.size(). `text` must be valid UTF-8.
CodePoint code_point_at(std::string_view text, std::size_t at);

// The code point that ends at `end` > 0. `text` must be valid UTF-8.
CodePoint code_point_before(std::string_view text, std::size_t end);

void append(std::string& text, char32_t code_point);

// `text`, valid UTF-8, without leading and trailing code points for which `taken` is true.
template <typename Taken>
std::string_view stripped(std::string_view text, const Taken& taken, bool left = true, bool right = true) {
  while (left && !text.empty() && taken(code_point_at(text, 0).value)) text.remove_prefix(code_point_at(text, 0).size);
  while (right && !text.empty() && taken(code_point_before(text, text.size()).value))
    text.remove_suffix(code_point_before(text, text.size()).size);
  return text;
}

// Number of code points of valid UTF-8.
std::size_t count_code_points(std::string_view text);

bool is_valid_utf8(std::string_view bytes);

// Index of the first byte that is not part of a whole code point; npos if there is none.
std::size_t find_invalid_utf8(std::string_view bytes);

// Number of bytes at the end that begin a code point whose other bytes are missing.
std::size_t unfinished_at_end(std::string_view bytes);

// Like Python's `bytes.decode(errors="replace")`: U+FFFD for each maximal prefix of a code point that is cut off, and
// for each byte that starts none.
std::string to_valid_utf8(std::string_view bytes);

}  // namespace edgekiln::text
