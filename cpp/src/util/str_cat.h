// Concatenation of strings and numbers, mainly for error messages.
#pragma once

#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>

namespace edgekiln {

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char part) { text += part; }

template <typename T>
  requires std::is_integral_v<T>
void append(std::string& text, T number) {
  char buffer[24];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number);
  text.append(buffer, end.ptr);
}

// The shortest decimal form that parses back to the same value, written as Python's repr() does: messages of both
// languages are equal.
template <typename T>
  requires std::is_floating_point_v<T>
void append(std::string& text, T number) {
  if (std::isnan(number)) return append(text, std::string_view("nan"));
  constexpr double kLeastFixed = 1e-4;
  constexpr double kLeastScientific = 1e16;
  const double size = std::abs(static_cast<double>(number));
  const bool scientific = size != 0 && (size < kLeastFixed || size >= kLeastScientific);
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number,
                                 scientific ? std::chars_format::scientific : std::chars_format::fixed);
  const std::string_view digits(buffer, static_cast<std::size_t>(end.ptr - buffer));
  text += digits;
  if (!scientific && digits.find('.') == std::string_view::npos) text += ".0";
}

}  // namespace detail

template <typename... Parts>
std::string str_cat(const Parts&... parts) {
  std::string text;
  (detail::append(text, parts), ...);
  return text;
}

}  // namespace edgekiln
