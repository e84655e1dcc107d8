// Names of ops that are put together of parts.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace edgekiln::ort {

// The parts one after another and a terminating null.
template <const std::string_view&... kParts>
inline constexpr auto kJoined = [] {
  std::array<char, (kParts.size() + ... + 1)> name{};
  auto to = name.begin();
  ((to = std::copy(kParts.begin(), kParts.end(), to)), ...);
  return name;
}();

}  // namespace edgekiln::ort
