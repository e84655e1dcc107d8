// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
#pragma once

#include <cstdint>

namespace edgekiln {

// 64 bits of state; every number is the state plus a constant, mixed. Not for secrets.
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}

  // The generator of one row of a batch: its seed is the (row + 1)-th number of the generator of `seed`.
  static SplitMix64 stream(std::uint64_t seed, std::uint64_t row) {
    return SplitMix64(SplitMix64(seed + row * kGamma).next());
  }

  std::uint64_t next() {
    std::uint64_t mixed = state_ += kGamma;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBU;
    return mixed ^ (mixed >> 31);
  }

  // In [0, 1): the top 53 bits of `next`, times 2^-53.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  static constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15U;
  std::uint64_t state_;
};

}  // namespace edgekiln
