// AVX-512 with VNNI, which multiplies bytes: Intel from Cascade Lake (2019). Adds the GEMMs of packed weights.
#define EDGEKILN_ISA avx512vnni

#include "kernels/instruction_sets/cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::avx512vnni {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_avx512_vnni(); },
    .kernels =
        {
            .instruction_set = "avx512vnni",
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
        },
};

}  // namespace edgekiln::avx512vnni
