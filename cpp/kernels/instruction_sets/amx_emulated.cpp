// The AMX kernels on processors without AMX, for tests: amx/amx_emulated.h executes the tile instructions in memory.
#define EDGEKILN_ISA amx_emulated

#include "kernels/instruction_sets/cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::amx_emulated {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_avx512_bf16(); },
    .kernels =
        {
            .instruction_set = "amx_emulated",
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

}  // namespace edgekiln::amx_emulated
