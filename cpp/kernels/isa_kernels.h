// Declares the kernels that are compiled for the instruction set EDGEKILN_ISA, each in a namespace of that name.
//
// Which of them exist depends on the sources that kernels/CMakeLists.txt lists for the instruction set; a table in
// instruction_sets/ may only name those.
#pragma once

#include "kernels/kernel_table.h"

#ifndef EDGEKILN_ISA
#error "EDGEKILN_ISA must name the instruction set"
#endif

namespace edgekiln::EDGEKILN_ISA {

// vector/
void attention(const AttentionArgs&, const Parallel&, Scratch&);
void matmul_nbits(const MatMulNBitsArgs&, const Parallel&, Scratch&);
void skip_rms_norm(const SkipRmsNormArgs&, const Parallel&);
void swiglu(const SwigluArgs&, const Parallel&);
void qkv_prologue(const QkvPrologueArgs&, const Parallel&);
void causal_conv(const CausalConvArgs&, const Parallel&);
void linear_attention(const LinearAttentionArgs&, const Parallel&);
void selective_scan(const SelectiveScanArgs&, const Parallel&);
void gated_rms_norm(const GatedRmsNormArgs&, const Parallel&);
void route(const Router&, const RouterArgs&, const Parallel&);
void add_weighted_rows(const WeightedRow*, std::size_t count, std::size_t width, const Parallel&);
void float_gemm(const float* w, std::size_t k, std::size_t n, const float* a, std::size_t m, float* out,
                const Parallel&);
void bf16_attention(const AttentionArgs&, const Parallel&, Scratch&);  // with AVX512-BF16

// avx512/, with AVX512-VNNI
void nbits_gemm(const PackedNBits&, const float* a, std::size_t m, std::size_t tokens, float* out, const Parallel&,
                Scratch&);
void per_token_int8_gemm(const PackedInt8&, const float* a, std::size_t m, float* out, const Parallel&, Scratch&);
void two_pass_lm_head(const PackedLmHead&, const float* a, std::size_t m, float* out, const Parallel&, Scratch&);

}  // namespace edgekiln::EDGEKILN_ISA
