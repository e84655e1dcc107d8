#include "generate/stop.h"

#include <algorithm>
#include <utility>

namespace edgekiln {

StopMatcher::StopMatcher(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const std::string& one : stop_) longest_ = std::max(longest_, one.size());
}

StopMatcher::Match StopMatcher::push(std::string_view token) {
  held_ += token;
  sizes_.push_back(token.size());
  std::size_t first_end = std::string::npos;
  std::size_t start = 0;
  for (const std::string& stop : stop_) {
    const std::size_t found = held_.find(stop);
    if (found == std::string::npos) continue;
    // The stop string that ends first wins, so that the result does not depend on how the text is split into tokens.
    const std::size_t end = found + stop.size();
    if (end < first_end || (end == first_end && found < start)) {
      first_end = end;
      start = found;
    }
  }
  const bool stopped = first_end != std::string::npos;
  if (!stopped) start = held_.size() - partial_match();
  std::size_t count = 0;
  std::size_t end = 0;
  for (; !sizes_.empty() && end + sizes_.front() <= start; ++count) {
    end += sizes_.front();
    sizes_.pop_front();
  }
  held_.erase(0, end);
  return {count, stopped ? std::optional(start - end) : std::nullopt};
}

// Length of the longest suffix of the held bytes that is a prefix of a stop string.
std::size_t StopMatcher::partial_match() const {
  for (std::size_t size = std::min(longest_ - 1, held_.size()); size > 0; --size) {
    const std::string_view suffix = std::string_view(held_).substr(held_.size() - size);
    if (std::any_of(stop_.begin(), stop_.end(), [&](const std::string& stop) { return stop.starts_with(suffix); }))
      return size;
  }
  return 0;
}

}  // namespace edgekiln
