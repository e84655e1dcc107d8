// AVX-512 with VNNI and BF16: AMD from Zen 4 (2022). Adds attention in bfloat16.
//
// Intel's processors with BF16 run bfloat16 fast in AMX tiles only, so without AMX they take avx512vnni.
#define EDGEKILN_ISA avx512bf16

#include "kernels/instruction_sets/cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::avx512bf16 {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_avx512_bf16() && !__builtin_cpu_is("intel"); },
    .kernels =
        {
            .instruction_set = "avx512bf16",
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

}  // namespace edgekiln::avx512bf16
