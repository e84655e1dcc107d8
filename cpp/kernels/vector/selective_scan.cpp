#include "kernels/selective_scan.h"

#include <algorithm>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/softplus.h"
#include "kernels/vector/transpose.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Channels that are computed together: enough that the tokens of a prompt are read in long runs, while their states
// stay in the L1 cache.
constexpr std::size_t kChannels = 128;
// Partial sums over the states, which round less than one.
constexpr std::size_t kSums = 4;
constexpr float kLog2OfE = 1.44269504f;

// A block of channels of one sequence. A vector has one state of several channels, so that sums over the states of a
// channel need no shuffles; channels past the last have zeros.
class ScanChannels {
 public:
  ScanChannels(const SelectiveScanArgs& args, std::size_t sequence, std::size_t first)
      : args_(args), sequence_(sequence), first_(first), count_(std::min(kChannels, args.channels - first)) {}

  void compute() {
    const std::size_t states = args_.states;
    const std::size_t state = (sequence_ * args_.channels + first_) * states;
    transpose(args_.past + state, count_, states, state_, kChannels);
    for (std::size_t i = 0; i < states; ++i)
      for (std::size_t channel = 0; channel < count_; channel += kLanes)
        store(a_ + i * kChannels + channel, channels(args_.a + i * args_.channels + first_, channel) * kLog2OfE);
    for (std::size_t token = 0; token < args_.length; ++token) {
      const std::size_t at = sequence_ * args_.length + token, start = at * args_.channels + first_;
      if (token + 1 < args_.length) prefetch(at + 1);
      for (std::size_t channel = 0; channel < count_; channel += kLanes) scan(at, start, channel);
    }
    store_states(args_.present + state);
  }

 private:
  // The inputs of a token, which hardware does not foresee, as they are far apart.
  void prefetch(std::size_t token) const {
    constexpr std::size_t kLine = 64 / sizeof(float);
    const std::size_t start = token * args_.channels + first_;
    for (const float* const from : {args_.x + start, args_.dt + start, args_.z + token * args_.z_stride + first_})
      for (std::size_t i = 0; i < count_; i += kLine) __builtin_prefetch(from + i);
  }

  // A vector of channels of the token whose values begin at `start`.
  void scan(std::size_t token, std::size_t start, std::size_t channel) {
    const std::size_t at = start + channel;
    const Floats d = channels(args_.d + first_, channel), bias = channels(args_.dt_bias + first_, channel);
    const Floats x = channels(args_.x + start, channel),
                 z = channels(args_.z + token * args_.z_stride + first_, channel);
    const Floats step = softplus(channels(args_.dt + start, channel) + bias), news = step * x;
    const float *b = args_.b + token * args_.states, *c = args_.c + token * args_.states;
    Floats sums[kSums] = {};
    const auto update = [&](std::size_t i, Floats& sum) {
      float* const state = state_ + i * kChannels + channel;
      const Floats kept = exp2_of_negative(load(a_ + i * kChannels + channel) * step) * load(state);
      const Floats next = added(kept, news, broadcast(b[i]));
      store(state, next);
      sum = added(sum, next, broadcast(c[i]));
    };
    std::size_t i = 0;
    for (; i + kSums <= args_.states; i += kSums)
      for (std::size_t part = 0; part < kSums; ++part) update(i + part, sums[part]);
    for (std::size_t part = 0; i < args_.states; ++i, ++part) update(i, sums[part]);
    const Floats read = (sums[0] + sums[2]) + (sums[1] + sums[3]);
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

  void store_states(float* to) const {
    const std::size_t states = args_.states;
    if (states % kLanes == 0 && count_ % kLanes == 0) {
      for (std::size_t i = 0; i < states; i += kLanes)
        for (std::size_t channel = 0; channel < count_; channel += kLanes)
          transpose_square(state_ + i * kChannels + channel, kChannels, to + channel * states + i, states);
    } else {
      for (std::size_t channel = 0; channel < count_; ++channel)
        for (std::size_t i = 0; i < states; ++i) to[channel * states + i] = state_[i * kChannels + channel];
    }
  }

  const SelectiveScanArgs& args_;
  std::size_t sequence_, first_, count_;
  alignas(64) float state_[kMaxSelectiveScanStates * kChannels], a_[kMaxSelectiveScanStates * kChannels];
};

}  // namespace

void selective_scan(const SelectiveScanArgs& given, const Parallel& parallel) {
  SelectiveScanArgs args = given;
  if (!args.z_stride) args.z_stride = args.channels;
  const std::size_t blocks = (args.channels + kChannels - 1) / kChannels;
  // A state counts for two values: its update takes an exponential.
  for_each_row(args.batch * blocks, 2 * kChannels * args.length * args.states, parallel,
               [&](std::size_t block) { ScanChannels(args, block / blocks, block % blocks * kChannels).compute(); });
}

}  // namespace edgekiln::EDGEKILN_ISA
