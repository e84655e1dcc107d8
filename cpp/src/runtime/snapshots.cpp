#include "runtime/snapshots.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace edgekiln {

std::vector<std::int64_t> Snapshots::lengths() const {
  std::vector<std::int64_t> lengths;
  for (const Snapshot& snapshot : all_) lengths.push_back(snapshot.length);
  return lengths;
}

const Snapshots::States* Snapshots::at(std::int64_t length) const {
  const auto found = std::find_if(all_.begin(), all_.end(), [=](const Snapshot& one) { return one.length == length; });
  return found == all_.end() ? nullptr : &found->states;
}

std::int64_t Snapshots::latest(std::int64_t length) const {
  std::int64_t latest = 0;
  for (const Snapshot& snapshot : all_)
    if (snapshot.length <= length) latest = snapshot.length;
  return latest;
}

bool Snapshots::due(std::int64_t length) const {
  return length - (all_.empty() ? 0 : all_.back().length) >= kSnapshotInterval;
}

void Snapshots::add(std::int64_t length, States states) {
  all_.push_back({length, std::move(states)});
  if (all_.size() <= kMostSnapshots) return;
  std::int64_t smallest = std::numeric_limits<std::int64_t>::max();
  std::size_t least = 0;
  for (std::size_t i = 0; i + 1 < all_.size(); ++i) {
    const std::int64_t gap = all_[i + 1].length - (i ? all_[i - 1].length : 0);
    if (all_[i].length == prompt_end_ || gap >= smallest) continue;
    smallest = gap;
    least = i;
  }
  all_.erase(all_.begin() + static_cast<std::ptrdiff_t>(least));
}

void Snapshots::drop_after(std::int64_t length) {
  while (!all_.empty() && all_.back().length > length) all_.pop_back();
}

}  // namespace edgekiln
