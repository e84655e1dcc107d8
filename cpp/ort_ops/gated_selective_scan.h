// edgekiln.ort::GatedSelectiveScan: the selective scan of Mamba with softplus, skip connection and gate.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// Engines define a function of this name, which runs where the kernel is not registered. Shapes: SelectiveScanArgs, but
// a [channels, states]; z may have other channels before its own.
class GatedSelectiveScan {
 public:
  enum Input : std::size_t { kX, kDt, kA, kB, kC, kD, kZ, kDtBias, kPast };
  enum Output : std::size_t { kOut, kPresent };
  static constexpr const char* kName = "GatedSelectiveScan";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kFloat, kFloat,
                                                          kFloat, kFloat, kFloat, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit GatedSelectiveScan(const OrtKernelInfo* info) {
    if (const Tensor a = constant_tensor(info, kA); a && a.shape.size() == 2)
      by_state(a.floats(), static_cast<std::size_t>(a.shape[0]), static_cast<std::size_t>(a.shape[1]), a_);
  }

  void compute(OrtKernelContext* context) const {
    const Tensor x = input(context, kX), past = input(context, kPast);
    if (x.shape.size() != 3 || past.shape.size() != 3 || past.shape[0] != x.shape[0] || past.shape[1] != x.shape[2])
      fail("the past has another shape");
    SelectiveScanArgs args{};
    args.batch = static_cast<std::size_t>(x.shape[0]);
    args.length = static_cast<std::size_t>(x.shape[1]);
    args.channels = static_cast<std::size_t>(x.shape[2]);
    args.states = static_cast<std::size_t>(past.shape[2]);
    if (!args.batch || !args.length || !args.channels || !args.states) fail("a scan needs a token and a channel");
    if (args.states > kMaxSelectiveScanStates) fail("a channel has more states than the kernel takes");
    const std::size_t tokens = args.batch * args.length;
    const auto floats = [&](Input index, std::size_t count) { return floats_of(input(context, index), count); };
    args.x = x.floats();
    args.past = past.floats();
    args.dt = floats(kDt, tokens * args.channels);
    const float* const a = floats(kA, args.channels * args.states);
    std::vector<float> own;
    if (a_.empty()) by_state(a, args.channels, args.states, own);
    args.a = a_.empty() ? own.data() : a_.data();
    args.b = floats(kB, tokens * args.states);
    args.c = floats(kC, tokens * args.states);
    args.d = floats(kD, args.channels);
    const Tensor z = input(context, kZ);
    args.z_stride = z.shape.empty() ? 0 : static_cast<std::size_t>(z.shape.back());
    if (args.z_stride < args.channels) fail("the gate has another shape than the input");
    args.z = floats_of(z, tokens * args.z_stride) + args.z_stride - args.channels;
    args.dt_bias = floats(kDtBias, args.channels);
    args.out = static_cast<float*>(output(context, kOut, x.shape));
    args.present = static_cast<float*>(output(context, kPresent, past.shape));
    kernels().selective_scan(args, {run_parallel, context});
  }

 private:
  static void by_state(const float* a, std::size_t channels, std::size_t states, std::vector<float>& to) {
    to.resize(channels * states);
    for (std::size_t channel = 0; channel < channels; ++channel)
      for (std::size_t i = 0; i < states; ++i) to[i * channels + channel] = a[channel * states + i];
  }

  std::vector<float> a_;  // [states, channels]; empty if it is not constant
};

}  // namespace edgekiln::ort
