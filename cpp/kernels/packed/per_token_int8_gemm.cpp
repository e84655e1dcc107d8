// Per-token int8 GEMM (W8A8): quantize each token, multiply with the packed weight, scale in the epilogue.
//
// m <= kGemvMaxM is a GEMV: each panel is read once for all tokens. Larger m runs int8_gemm() on blocks of tokens and
// panels.
#include "kernels/isa_kernels.h"
#include "kernels/packed/int8_tile.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

template <int Vectors>
void gemv_task(void* context, std::size_t index) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  const std::size_t last = std::min((index + 1) * args.panels_per_task, args.weight.panels()) * kPanelWidth;
  for (std::size_t column = index * args.panels_per_task * kPanelWidth; column < last; column += Vectors * kLanes)
    int8_tiles<Int8Gemv, Vectors, kGemvTileM<Vectors>>(args, 0, args.m, column);
}

// Activations of so many bytes stay in the L2 cache beside a few panels. All tokens are then multiplied with these
// before the next, so that a thread reads each panel once from memory; of more tokens, a range with all panels.
constexpr std::size_t kCachedBytes = 256 << 10;

void gemm_task(void* context, std::size_t index) {
  const Int8GemmArgs& args = *static_cast<const Int8GemmArgs*>(context);
  const std::size_t tasks_n = ceil_div(args.weight.panels(), kInt8GemmPanels);
  const std::size_t tasks_m = ceil_div(args.m, args.tokens_per_task);
  const bool by_panels = args.m * args.stride <= kCachedBytes;
  const std::size_t panel = (by_panels ? index / tasks_m : index % tasks_n) * kInt8GemmPanels;
  const std::size_t first = (by_panels ? index % tasks_m : index / tasks_n) * args.tokens_per_task;
  int8_gemm(args, first, std::min(first + args.tokens_per_task, args.m), panel,
            std::min<std::size_t>(kInt8GemmPanels, args.weight.panels() - panel));
}

}  // namespace

void per_token_int8_gemm(const PackedInt8& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                         Scratch& scratch) {
  const bool gemv = m <= kGemvMaxM;
  const std::size_t code_bytes = gemv ? Int8Gemv::kCodeBytes : Int8Gemm::kCodeBytes;
  const std::size_t stride = int8_gemm_stride(weight.k) * code_bytes;
  const std::size_t size = int8_gemm_held_tokens(m) * stride / sizeof(float);
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
  for_each_row(m, weight.k, parallel,
               [&](std::size_t token) { (gemv ? quantize_token<Int8Gemv> : quantize_token<Int8Gemm>)(args, token); });
  if (gemv) {
    // A whole panel at once where the registers hold so many accumulators.
    auto* const task =
        m <= static_cast<std::size_t>(kGemvTileM<kPanelVectors>) ? gemv_task<kPanelVectors> : gemv_task<1>;
    parallel.run(parallel.self, task, ceil_div(weight.panels(), args.panels_per_task), &args);
  } else {
    const std::size_t tasks = ceil_div(weight.panels(), kInt8GemmPanels) * ceil_div(m, tokens_per_task);
    parallel.run(parallel.self, gemm_task, tasks, &args);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
