// Snapshots of a sequence: copies of its states, to which it can be rewound. runtimes/snapshots.py says more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgekiln {

inline constexpr std::int64_t kSnapshotInterval = 512;  // most tokens between snapshots
inline constexpr std::size_t kMostSnapshots = 8;        // of a sequence

// The snapshots of one sequence, in the order of their lengths. The empty sequence needs none: its states are zeros.
class Snapshots {
 public:
  using States = std::vector<std::byte>;  // of all states, as the storage saved them

  // Length of each snapshot, in increasing order.
  std::vector<std::int64_t> lengths() const;

  // The states after the first `length` tokens; null if there is no snapshot of this length.
  const States* at(std::int64_t length) const;

  // Length of the latest snapshot at or before `length`, 0 if there is none.
  std::int64_t latest(std::int64_t length) const;

  // Whether a sequence that has grown to `length` tokens needs another snapshot.
  bool due(std::int64_t length) const;

  // Add a snapshot that is longer than all others. If there are more than kMostSnapshots then, the one goes whose loss
  // leaves the smallest gap between its neighbours; never this one, nor the one at the end of the last prompt.
  void add(std::int64_t length, States states);

  // Keep the snapshot of this length until the next prompt ends.
  void end_prompt(std::int64_t length) { prompt_end_ = length; }

  // Drop the snapshots of more than `length` tokens.
  void drop_after(std::int64_t length);

 private:
  struct Snapshot {
    std::int64_t length;
    States states;
  };

  std::vector<Snapshot> all_;
  std::int64_t prompt_end_ = 0;
};

}  // namespace edgekiln
