// AVX-512 with VNNI, BF16 and AMX: Intel from Sapphire Rapids (2023). Prefill GEMMs and attention run in tiles.
#define EDGEKILN_ISA amx

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/instruction_sets/cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::amx {
namespace {

// Linux grants tiles to a process on request, as their 8 KiB of state enlarge each thread's signal frames.
bool request_tiles() {
#if defined(__linux__)
  constexpr long kArchReqXcompPerm = 0x1023, kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
#else
  return false;
#endif
}

}  // namespace

extern const InstructionSet instruction_set{
    .supported =
        [] {
          return cpu::has_avx512_bf16() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                 __builtin_cpu_supports("amx-bf16") && request_tiles();
        },
    .kernels =
        {
            .instruction_set = "amx",
            .attention = attention,
            .matmul_nbits = matmul_nbits,
            .skip_rms_norm = skip_rms_norm,
            .swiglu = swiglu,
            .qkv_prologue = qkv_prologue,
            .causal_conv = causal_conv,
            .linear_attention = linear_attention,
            .selective_scan = selective_scan,
            .gated_rms_norm = gated_rms_norm,
            .dequantize_row = dequantize_row,
            .float_gemm = float_gemm,
            .add_weighted_rows = add_weighted_rows,
            .route = route,
            .nbits_gemm = nbits_gemm,
            .per_token_int8_gemm = per_token_int8_gemm,
            .two_pass_lm_head = two_pass_lm_head,
            .bf16_attention = bf16_attention,
        },
};

}  // namespace edgekiln::amx
