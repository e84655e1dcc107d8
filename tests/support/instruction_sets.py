"""Instruction sets of edgekiln's kernels."""

# Those with int8 dot products (VNNI or AMX). Only there are whole layers and int8 GEMMs run by edgekiln's kernels.
WITH_INT8_DOT_PRODUCTS = ("amx", "avx512bf16", "avx512vnni")
