// The states of a sequence: two buffers of each state, between which runs alternate, and snapshots.
//
// A run reads one of the buffers, the front, and writes the other one, since kernels may read the past after they have
// written the present. So a decode step copies no state: the next one runs in the other direction. runtimes/states.py
// says more.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/snapshots.h"
#include "util/result.h"

namespace edgekiln {

// Which buffer, or snapshot, holds the states of a sequence. Derived classes own the memory. Errors are theirs.
class States {
 public:
  States() = default;
  virtual ~States() = default;
  States(const States&) = delete;
  States& operator=(const States&) = delete;

  const Snapshots& snapshots() const { return snapshots_; }

  // Bring the states of the first `length` tokens into a buffer, before a run on the tokens after them. Returns the
  // front, 0 or 1: the run reads this buffer and writes the other one.
  Result<std::size_t> begin_run(std::int64_t length);

  // Record that the last run wrote the states of the first `length` tokens.
  void end_run(std::int64_t length) { lengths_[back_] = length; }

  // Forget the states of more than `length` tokens.
  void rewind(std::int64_t length);

  // Make sure that there is a snapshot of the sequence, which has `length` tokens now.
  [[nodiscard]] Result<void> snapshot(std::int64_t length);

  // Keep the snapshot of this length until the next prompt ends.
  void end_prompt(std::int64_t length) { snapshots_.end_prompt(length); }

 protected:
  // Record that both buffers are zeros, the states of an empty sequence: memory that nothing needs to clear.
  void begin_zeroed() { lengths_ = {0, 0}; }

 private:
  static constexpr std::int64_t kNone = -1;  // length of a buffer that holds the states of no sequence

  // A copy, in host memory, of all states in a buffer.
  virtual Result<Snapshots::States> save(std::size_t buffer) = 0;
  // Write what `save` returned into a buffer.
  virtual Result<void> load(std::size_t buffer, const Snapshots::States& states) = 0;
  // Write zeros into a buffer.
  virtual Result<void> clear(std::size_t buffer) = 0;

  Snapshots snapshots_;
  std::array<std::int64_t, 2> lengths_{kNone, kNone};  // number of tokens whose states a buffer holds
  std::size_t back_ = 0;                               // the buffer that the last run wrote
};

}  // namespace edgekiln
