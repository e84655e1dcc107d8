// edgekiln.ort::GatedSelectiveScan: the selective scan of Mamba with softplus, skip connection and gate.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// Engines define a function of this name, which runs where the kernel is not registered. Shapes: SelectiveScanArgs.
class GatedSelectiveScan {
 public:
  enum Input : std::size_t { kX, kDt, kA, kB, kC, kD, kZ, kDtBias, kPast };
  enum Output : std::size_t { kOut, kPresent };
  static constexpr const char* kName = "GatedSelectiveScan";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kFloat, kFloat,
                                                          kFloat, kFloat, kFloat, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit GatedSelectiveScan(const OrtKernelInfo*) {}

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
    args.a = floats(kA, args.channels * args.states);
    args.b = floats(kB, tokens * args.states);
    args.c = floats(kC, tokens * args.states);
    args.d = floats(kD, args.channels);
    args.z = floats(kZ, tokens * args.channels);
    args.dt_bias = floats(kDtBias, args.channels);
    args.out = static_cast<float*>(output(context, kOut, x.shape));
    args.present = static_cast<float*>(output(context, kPresent, past.shape));
    kernels().selective_scan(args, {run_parallel, context});
  }
};

}  // namespace edgekiln::ort
