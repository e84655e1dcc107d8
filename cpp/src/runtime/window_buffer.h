// Window buffers: the keys and values of sliding-window layers, which hold the last tokens of a sequence only.
//
// Slot i of a buffer holds position start + i. When new tokens have no slots, the last entries move to the front and
// start advances. runtimes/window_buffer.py gives the reasons for the sizes.
#pragma once

#include <algorithm>
#include <cstdint>

namespace edgekiln {

inline constexpr std::int64_t kWindowRewind = 512;  // tokens that can be dropped at any time
inline constexpr std::int64_t kWindowMove = 512;    // least number of slots for new tokens and for rounding
inline constexpr std::int64_t kWindowBlock = 64;    // keys of a block of edgekiln's decode attention

// The buffers of the layers of one window.
struct WindowBuffer {
  std::int64_t window;    // last tokens that a query sees, its own included
  std::int64_t capacity;  // slots of a buffer, if sequences become as long

  // Buffers for runs of up to `chunk` tokens.
  static WindowBuffer of(std::int64_t window, std::int64_t chunk) {
    const std::int64_t slots = window + kWindowRewind + std::max(kWindowMove, chunk + kWindowBlock);
    return {window, (slots + kWindowBlock - 1) / kWindowBlock * kWindowBlock};
  }

  // Position of the first slot that a run of `added` tokens after `length` needs: `start`, or a larger one if the
  // buffers have to move.
  std::int64_t start_for(std::int64_t start, std::int64_t length, std::int64_t added) const {
    if (length + added - start <= capacity) return start;
    return (length + 1 - window - kWindowRewind) / kWindowBlock * kWindowBlock;
  }

  // Whether buffers that begin at position `start` have all keys that the token after the first `length` sees.
  bool holds(std::int64_t start, std::int64_t length) const { return start == 0 || length + 1 - window >= start; }
};

}  // namespace edgekiln
