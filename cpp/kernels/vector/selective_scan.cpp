#include "kernels/selective_scan.h"

#include <algorithm>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/softplus.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Channels that are computed together: enough that the tokens of a prompt are read in long runs, while their states
// stay in the L1 cache.
constexpr std::size_t kChannels = 128;
constexpr float kLog2OfE = 1.44269504f;

// A block of channels of one sequence. States, rows of `a`, b and c are padded with zeros, which change no sum.
class ScanChannels {
 public:
  ScanChannels(const SelectiveScanArgs& args, std::size_t sequence, std::size_t first)
      : args_(args),
        sequence_(sequence),
        first_(first),
        count_(std::min(kChannels, args.channels - first)),
        padded_((args.states + kStripes - 1) / kStripes * kStripes) {}

  void compute() {
    const std::size_t states = args_.states, whole = (count_ + kLanes - 1) / kLanes * kLanes;
    const std::size_t state = (sequence_ * args_.channels + first_) * states;
    std::fill_n(state_, whole * padded_, 0.0f);
    std::fill_n(a_, whole * padded_, 0.0f);
    for (std::size_t channel = 0; channel < count_; ++channel) {
      std::copy_n(args_.past + state + channel * states, states, state_ + channel * padded_);
      const float* const a = args_.a + (first_ + channel) * states;
      for (std::size_t i = 0; i < states; ++i) a_[channel * padded_ + i] = a[i] * kLog2OfE;
    }
    for (std::size_t token = 0; token < args_.length; ++token) {
      const std::size_t at = sequence_ * args_.length + token, start = at * args_.channels + first_;
      if (token + 1 < args_.length) prefetch(start + args_.channels);
      b_ = padded(args_.b + at * states, own_b_);
      c_ = padded(args_.c + at * states, own_c_);
      for (std::size_t channel = 0; channel < count_; channel += kLanes) scan(start, channel);
    }
    for (std::size_t channel = 0; channel < count_; ++channel)
      std::copy_n(state_ + channel * padded_, states, args_.present + state + channel * states);
  }

 private:
  // The inputs of a token, which hardware does not foresee, as they are far apart.
  void prefetch(std::size_t start) const {
    constexpr std::size_t kLine = 64 / sizeof(float);
    for (const float* const from : {args_.x, args_.dt, args_.z})
      for (std::size_t i = 0; i < count_; i += kLine) __builtin_prefetch(from + start + i);
  }

  // The states at `from`, in `memory` if they need padding.
  const float* padded(const float* from, float* memory) const {
    if (args_.states == padded_) return from;
    std::copy_n(from, args_.states, memory);
    return memory;
  }

  // A vector of channels of the token whose values begin at `start`.
  void scan(std::size_t start, std::size_t channel) {
    const std::size_t at = start + channel;
    const Floats d = channels(args_.d + first_, channel), bias = channels(args_.dt_bias + first_, channel);
    const Floats x = channels(args_.x + start, channel), z = channels(args_.z + start, channel);
    const Floats step = softplus(channels(args_.dt + start, channel) + bias);
    const Floats read = padded_ == kStripes ? update<kStripeParts>(channel, step, step * x, kStripeParts)
                                            : update<0>(channel, step, step * x, padded_ / kLanes);
    const Floats out = added(read, d, x) * silu(z);
    if (channel + kLanes <= count_) return store(args_.out + at, out);
    float rest[kLanes];
    store(rest, out);
    std::copy_n(rest, count_ - channel, args_.out + at);
  }

  // The values of a vector of channels at `from`, padded with zeros.
  Floats channels(const float* from, std::size_t channel) const {
    if (channel + kLanes <= count_) return load(from + channel);
    float padded[kLanes] = {};
    std::copy_n(from + channel, count_ - channel, padded);
    return load(padded);
  }

  // Updates the states with `news`, step x, and returns Sᵀc of each channel. Their number of vectors is Parts, or
  // `parts` where that is 0.
  template <std::size_t Parts>
  Floats update(std::size_t first, Floats step, Floats news, std::size_t parts) {
    Floats reads[kLanes];
    float sizes[kLanes], values[kLanes];
    store(sizes, step);
    store(values, news);
    for (int channel = 0; channel < kLanes; ++channel) {
      const std::size_t row = (first + channel) * padded_;
      const Floats size = broadcast(sizes[channel]), value = broadcast(values[channel]);
      Floats sums[kStripeParts];
      for (Floats& each : sums) each = Floats{};
      for (std::size_t part = 0; part < (Parts ? Parts : parts); ++part) {
        const std::size_t i = part * kLanes;
        const Floats kept = exp2_of_negative(load(a_ + row + i) * size) * load(state_ + row + i);
        const Floats s = added(kept, value, load(b_ + i));
        store(state_ + row + i, s);
        sums[part % kStripeParts] = added(sums[part % kStripeParts], s, load(c_ + i));
      }
      reads[channel] = sum_of_parts(sums);
    }
    return EDGEKILN_ISA::sums(reads);
  }

  const SelectiveScanArgs& args_;
  std::size_t sequence_, first_, count_, padded_;
  alignas(64) float state_[kChannels * kMaxSelectiveScanStates], a_[kChannels * kMaxSelectiveScanStates];
  alignas(64) float own_b_[kMaxSelectiveScanStates] = {}, own_c_[kMaxSelectiveScanStates] = {};
  const float *b_ = nullptr, *c_ = nullptr;  // of the current token
};

}  // namespace

void selective_scan(const SelectiveScanArgs& args, const Parallel& parallel) {
  const std::size_t blocks = (args.channels + kChannels - 1) / kChannels;
  // A state counts for two values: its update takes an exponential.
  for_each_row(args.batch * blocks, 2 * kChannels * args.length * args.states, parallel,
               [&](std::size_t block) { ScanChannels(args, block / blocks, block % blocks * kChannels).compute(); });
}

}  // namespace edgekiln::EDGEKILN_ISA
