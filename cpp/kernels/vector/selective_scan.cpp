#include "kernels/selective_scan.h"

#include <algorithm>

#include "kernels/vector/softplus.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// A vector of channels of one sequence. States and the rows of `a` are padded with zeros, which change no sum.
class ScanChannels {
 public:
  ScanChannels(const SelectiveScanArgs& args, std::size_t sequence, std::size_t first)
      : args_(args),
        sequence_(sequence),
        first_(first),
        count_(std::min<std::size_t>(kLanes, args.channels - first)),
        padded_((args.states + kStripes - 1) / kStripes * kStripes) {
    for (float* const padded : {state_, a_}) std::fill_n(padded, kLanes * padded_, 0.0f);
  }

  void compute() {
    const std::size_t state = (sequence_ * args_.channels + first_) * args_.states;
    for (std::size_t channel = 0; channel < count_; ++channel) {
      std::copy_n(args_.past + state + channel * args_.states, args_.states, state_ + channel * padded_);
      std::copy_n(args_.a + (first_ + channel) * args_.states, args_.states, a_ + channel * padded_);
    }
    const Floats d = channels(args_.d + first_), bias = channels(args_.dt_bias + first_);
    for (std::size_t token = 0; token < args_.length; ++token) {
      const std::size_t at = sequence_ * args_.length + token, start = at * args_.channels + first_;
      std::copy_n(args_.b + at * args_.states, args_.states, b_);
      std::copy_n(args_.c + at * args_.states, args_.states, c_);
      const Floats x = channels(args_.x + start), step = softplus(channels(args_.dt + start) + bias);
      const Floats read = update(step, step * x);
      float out[kLanes];
      store(out, added(read, d, x) * silu(channels(args_.z + start)));
      std::copy_n(out, count_, args_.out + start);
    }
    for (std::size_t channel = 0; channel < count_; ++channel)
      std::copy_n(state_ + channel * padded_, args_.states, args_.present + state + channel * args_.states);
  }

 private:
  // The channels at `from`, padded with zeros.
  Floats channels(const float* from) const {
    if (count_ == kLanes) return load(from);
    float padded[kLanes] = {};
    std::copy_n(from, count_, padded);
    return load(padded);
  }

  // Updates the states with `news`, step x, and returns Sᵀc of each channel.
  Floats update(Floats step, Floats news) {
    Floats reads[kLanes];
    float sizes[kLanes], values[kLanes];
    store(sizes, step);
    store(values, news);
    for (int channel = 0; channel < kLanes; ++channel) {
      float *const state = state_ + channel * padded_, *const a = a_ + channel * padded_;
      const Floats size = broadcast(sizes[channel]), value = broadcast(values[channel]);
      Floats sums[kStripeParts] = {};
      for (std::size_t part = 0; part < padded_ / kLanes; ++part) {
        const std::size_t i = part * kLanes;
        const Floats kept = exp_of(load(a + i) * size) * load(state + i), s = added(kept, value, load(b_ + i));
        store(state + i, s);
        sums[part % kStripeParts] = added(sums[part % kStripeParts], s, load(c_ + i));
      }
      reads[channel] = sum_of_parts(sums);
    }
    return sums(reads);
  }

  static Floats sums(Floats* rows) { return EDGEKILN_ISA::sums(rows); }

  const SelectiveScanArgs& args_;
  std::size_t sequence_, first_, count_, padded_;
  alignas(64) float state_[kLanes * kMaxSelectiveScanStates], a_[kLanes * kMaxSelectiveScanStates];
  alignas(64) float b_[kMaxSelectiveScanStates] = {}, c_[kMaxSelectiveScanStates] = {};
};

}  // namespace

void selective_scan(const SelectiveScanArgs& args, const Parallel& parallel) {
  // A task computes several vectors of channels where each takes less time than its dispatch.
  constexpr std::size_t kTaskValues = 1 << 12;
  struct Loop {
    const SelectiveScanArgs& args;
    std::size_t channels_a_task, tasks_a_sequence;
  };
  const std::size_t channels_a_task = (kTaskValues / (kLanes * args.length * args.states) + 1) * kLanes;
  Loop loop{args, channels_a_task, (args.channels + channels_a_task - 1) / channels_a_task};
  const auto task = [](void* context, std::size_t index) {
    const Loop& loop = *static_cast<const Loop*>(context);
    const std::size_t first = index % loop.tasks_a_sequence * loop.channels_a_task;
    const std::size_t last = std::min(first + loop.channels_a_task, loop.args.channels);
    for (std::size_t channel = first; channel < last; channel += kLanes)
      ScanChannels(loop.args, index / loop.tasks_a_sequence, channel).compute();
  };
  parallel.run(parallel.self, task, args.batch * loop.tasks_a_sequence, &loop);
}

}  // namespace edgekiln::EDGEKILN_ISA
