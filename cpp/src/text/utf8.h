// UTF-8, code point by code point.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace edgekiln::text {

struct CodePoint {
  char32_t value;
  std::size_t size;  // in bytes
};

// The one that begins at `at`, which is in `text`; `text` is valid UTF-8.
CodePoint code_point_at(std::string_view text, std::size_t at);

// The one that ends at `end`, which is over 0; `text` is valid UTF-8.
CodePoint code_point_before(std::string_view text, std::size_t end);

void append(std::string& text, char32_t code_point);

// Valid UTF-8 without the code points at its ends that `taken` says.
template <typename Taken>
std::string_view stripped(std::string_view text, const Taken& taken, bool left = true, bool right = true) {
  while (left && !text.empty() && taken(code_point_at(text, 0).value)) text.remove_prefix(code_point_at(text, 0).size);
  while (right && !text.empty() && taken(code_point_before(text, text.size()).value))
    text.remove_suffix(code_point_before(text, text.size()).size);
  return text;
}

// How many there are in valid UTF-8.
std::size_t count_code_points(std::string_view text);

bool is_valid_utf8(std::string_view bytes);

// What Python's `bytes.decode(errors="replace")` gives: U+FFFD for each longest part that may begin a code point, and
// for each byte that may not.
std::string to_valid_utf8(std::string_view bytes);

}  // namespace edgekiln::text
