#include "runtime/states.h"

#include <utility>

namespace edgekiln {

Result<std::size_t> States::begin_run(std::int64_t length) {
  rewind(length);
  const std::size_t front = lengths_[1] == length ? 1 : 0;
  if (lengths_[front] != length) {
    lengths_[front] = kNone;
    const Snapshots::States* const states = snapshots_.at(length);
    if (length && !states) return fail(Code::kInternal, "no states of ", length, " tokens");
    if (Result<void> fetched = length ? load(front, *states) : clear(front); !fetched)
      return std::unexpected(fetched.error());
    lengths_[front] = length;
  }
  back_ = 1 - front;
  lengths_[back_] = kNone;
  return front;
}

void States::rewind(std::int64_t length) {
  snapshots_.drop_after(length);
  for (std::int64_t& held : lengths_)
    if (held > length) held = kNone;
}

Result<void> States::snapshot(std::int64_t length) {
  if (!length || snapshots_.at(length)) return {};
  Result<Snapshots::States> states = save(lengths_[0] == length ? 0 : 1);
  if (!states) return std::unexpected(states.error());
  snapshots_.add(length, std::move(states).value());
  return {};
}

}  // namespace edgekiln
