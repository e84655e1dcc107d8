// Per-token int8 GEMM (W8A8): quantize each token, multiply with the packed weight, scale in the epilogue.
//
// m <= kGemvMaxM is a GEMV: each panel is read once for all tokens. Larger m runs int8_gemm() on blocks of tokens and
// panels. For AVX512-VNNI and AMX.
#include "kernels/avx512/int8_tile.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void gemv_task(void* context, std::size_t index) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  const std::size_t last = std::min((index + 1) * args.panels_per_task, args.weight.panels());
  for (std::size_t panel = index * args.panels_per_task; panel < last; ++panel) int8_tiles<1>(args, 0, args.m, panel);
}

void gemm_task(void* context, std::size_t index) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  const std::size_t tasks_n = ceil_div(args.weight.panels(), kInt8GemmPanels),
                    panel = index % tasks_n * kInt8GemmPanels;
  const std::size_t first = index / tasks_n * args.tokens_per_task;
  int8_gemm(args, first, std::min(first + args.tokens_per_task, args.m), panel,
            std::min<std::size_t>(kInt8GemmPanels, args.weight.panels() - panel));
}

}  // namespace

void per_token_int8_gemm(const PackedInt8& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                         Scratch& scratch) {
  const std::size_t stride = int8_gemm_stride(weight.k), size = int8_gemm_held_tokens(m) * stride / sizeof(float);
  float* memory = at_least(scratch, size + m);
  // Two ranges of tokens, so that two threads stay busy with an odd number of panel tasks, too.
  const std::size_t multiple = int8_gemm_token_multiple();
  const std::size_t tokens_per_task = ceil_div(ceil_div(m, 2), multiple) * multiple;
  Int8GemmArgs args{
      .weight = weight,
      .a = a,
      .m = m,
      .out = out,
      .stride = stride,
      .codes = reinterpret_cast<std::uint8_t*>(memory),
      .scales = memory + size,
      .panels_per_task = panels_per_task(weight.panels(), weight.panel_bytes()),
      .tokens_per_task = tokens_per_task,
  };
  for_each_row(m, weight.k, parallel, [&](std::size_t token) { quantize_token(args, token); });
  if (m <= kGemvMaxM) {
    parallel.run(parallel.self, gemv_task, ceil_div(weight.panels(), args.panels_per_task), &args);
  } else {
    const std::size_t tasks = ceil_div(weight.panels(), kInt8GemmPanels) * ceil_div(m, tokens_per_task);
    parallel.run(parallel.self, gemm_task, tasks, &args);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
