// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
#pragma once

#include <cstdint>

namespace edgekiln {

// A 64-bit state that advances by a constant; each output is a hash of the state. Not cryptographically secure.
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}

  // The generator of one sequence of a batch. Its seed is output number `index` + 1 of the generator with `seed`.
  static SplitMix64 stream(std::uint64_t seed, std::uint64_t index) {
    return SplitMix64(SplitMix64(seed + index * kGamma).next());
  }

  std::uint64_t next() {
    std::uint64_t mixed = state_ += kGamma;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBU;
    return mixed ^ (mixed >> 31);
  }

  // Uniform in [0, 1): the top 53 bits of `next`, times 2^-53.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  static constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15U;
  std::uint64_t state_;
};

}  // namespace edgekiln
