#include "generate/stop.h"

#include <algorithm>
#include <utility>

namespace edgekiln {

namespace {

bool starts_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const std::string& one : stop_) longest_ = std::max(longest_, one.size());
}

StopMatcher::Match StopMatcher::push(std::string_view text) {
  if (stop_.empty()) return {std::string(text), false};
  held_ += text;
  std::size_t first_end = std::string::npos;
  std::size_t first_start = 0;
  for (const std::string& stop : stop_) {
    const std::size_t start = held_.find(stop);
    if (start == std::string::npos) continue;
    // The stop string that ends first wins, so that the result does not depend on how the text is split.
    const std::size_t end = start + stop.size();
    if (end < first_end || (end == first_end && start < first_start)) {
      first_end = end;
      first_start = start;
    }
  }
  if (first_end != std::string::npos) {
    std::string shown = held_.substr(0, first_start);
    held_.clear();
    return {std::move(shown), true};
  }
  const std::size_t shown_size = held_.size() - partial_match();
  std::string shown = held_.substr(0, shown_size);
  held_.erase(0, shown_size);
  return {std::move(shown), false};
}

std::string StopMatcher::flush() { return std::exchange(held_, {}); }

// Length of the longest suffix of the held text that is a prefix of a stop string.
std::size_t StopMatcher::partial_match() const {
  for (std::size_t size = std::min(longest_ - 1, held_.size()); size > 0; --size) {
    const std::string_view suffix = std::string_view(held_).substr(held_.size() - size);
    if (!starts_character(suffix.front())) continue;
    if (std::any_of(stop_.begin(), stop_.end(), [&](const std::string& stop) { return stop.starts_with(suffix); }))
      return size;
  }
  return 0;
}

}  // namespace edgekiln
