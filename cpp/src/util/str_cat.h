// Concatenation of strings and numbers, mainly for error messages.
#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>

namespace edgekiln {

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char part) { text += part; }

// The shortest decimal form that parses back to the same value.
template <typename T>
  requires std::is_arithmetic_v<T>
void append(std::string& text, T number) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number);
  text.append(buffer, end.ptr);
}

}  // namespace detail

template <typename... Parts>
std::string str_cat(const Parts&... parts) {
  std::string text;
  (detail::append(text, parts), ...);
  return text;
}

}  // namespace edgekiln
