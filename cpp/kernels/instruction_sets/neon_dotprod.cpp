// 64-bit Arm with dot products of bytes: Cortex-A55, A75 and later (A76: Raspberry Pi 5), Neoverse N1, Apple M1.
#define EDGEKILN_ISA neon_dotprod

#include "kernels/instruction_sets/arm_cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::neon_dotprod {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_dotprod(); },
    .kernels =
        {
            .instruction_set = "neon_dotprod",
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
        },
};

}  // namespace edgekiln::neon_dotprod
