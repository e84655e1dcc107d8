"""What edgekiln's own kernels do on which processors."""

# That multiply bytes: layers and products are edgekiln's own there.
WITH_BYTE_PRODUCTS = ("amx", "avx512bf16", "avx512vnni")
