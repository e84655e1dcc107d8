// AVX2 with AVX-VNNI, which multiplies bytes: Intel's client processors from Alder Lake (2021), the N100 among them.
#define EDGEKILN_ISA avxvnni

#include "kernels/instruction_sets/cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::avxvnni {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_avx_vnni(); },
    .kernels =
        {
            .instruction_set = "avxvnni",
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

}  // namespace edgekiln::avxvnni
