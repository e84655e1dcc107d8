// What lies between a decoder layer's attention and the next one's, in one piece.
#pragma once

#include <algorithm>
#include <array>
#include <thread>

#include "kernels/kernel_table.h"
#include "ort_ops/matmul_nbits.h"
#include "ort_ops/ort_api.h"
#include "ort_ops/per_token_int8_matmul.h"

namespace edgekiln::ort {

// A product of the graph, as a layer takes it: what ops of such layers are called, the types of its weight's inputs,
// what packs them, and multiply().
struct OffsetProduct : CodeProduct {
  static constexpr const char *kBetween = "GroupBiasPostAttention", *kLayers = "GroupBiasDecoderLayers",
                              *kInt8Layers = "GroupBiasDecoderLayersInt8Cache";
  static constexpr bool kRowsApart = false;  // their weights would be brought to 8 bits for each task
  static constexpr std::array kWeight{ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                      ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT};
  OffsetProduct(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns)
      : CodeProduct(info, first, depth, columns, WeightScheme::kGroupBias) {}
};

struct ZeroPointProduct : CodeProduct {
  static constexpr const char *kBetween = "ZeroPointPostAttention", *kLayers = "ZeroPointDecoderLayers",
                              *kInt8Layers = "ZeroPointDecoderLayersInt8Cache";
  static constexpr bool kRowsApart = false;
  static constexpr std::array kWeight{ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                      ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8};
  ZeroPointProduct(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns)
      : CodeProduct(info, first, depth, columns, WeightScheme::kZeroPoints) {}
};

struct Int8Product {
  static constexpr const char *kBetween = "PerTokenInt8PostAttention", *kLayers = "PerTokenInt8DecoderLayers",
                              *kInt8Layers = "PerTokenInt8DecoderLayersInt8Cache";
  static constexpr bool kRowsApart = true;  // of one byte each
  static constexpr std::array kWeight{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT};
  Int8Product(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns)
      : panels(constant_panels(info, first, depth, columns)) {}
  void multiply(const float* a, std::size_t rows, float* out, const Parallel& parallel, Scratch& scratch) const {
    kernels().per_token_int8_gemm(panels, a, rows, out, parallel, scratch);
  }
  PackedInt8 panels;
};

// One such piece with constant weights. Its inputs stand together from `first` on: gamma, next gamma; the weights of
// the output, of gate and up, of down, of the next projections.
template <typename Product>
class BetweenLayer {
 public:
  static constexpr std::size_t kProducts = 4, kGammas = 2, kInputs = kGammas + kProducts * Product::kWeight.size();
  static constexpr auto kTypes = [] {
    std::array<ONNXTensorElementDataType, kInputs> types{};
    types.fill(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    for (std::size_t i = kGammas; i < kInputs; ++i)
      types[i] = Product::kWeight[(i - kGammas) % Product::kWeight.size()];
    return types;
  }();

  // The attributes of `info` say the sizes and epsilons.
  BetweenLayer(const OrtKernelInfo* info, std::size_t first)
      : sizes_(info),
        gamma_(constant_input<float>(info, first, sizes_.hidden)),
        next_gamma_(constant_input<float>(info, first + 1, sizes_.hidden)),
        output_(info, weight(first, 0), sizes_.attended, sizes_.hidden),
        gate_up_(info, weight(first, 1), sizes_.hidden, 2 * sizes_.intermediate),
        down_(info, weight(first, 2), sizes_.intermediate, sizes_.hidden),
        next_(info, weight(first, 3), sizes_.hidden, sizes_.projected) {
    if (!gamma_ || !next_gamma_) fail("norms must be constant");
  }

  struct Sizes {
    explicit Sizes(const OrtKernelInfo* info)
        : attended(integer(info, "attended")),
          hidden(integer(info, "hidden")),
          intermediate(integer(info, "intermediate")),
          projected(integer(info, "projected")),
          epsilon(real(info, "epsilon")),
          next_epsilon(real(info, "next_epsilon")) {}
    std::int64_t attended, hidden, intermediate, projected;
    float epsilon, next_epsilon;
  };

  // Rows of attended [attended] and residual [hidden] to projected [projected] and sum [hidden], which may be residual.
  struct Rows {
    const float *attended, *residual;
    std::size_t count;
    float *projected, *sum;
  };

  // How many floats of memory hold the projections of rows from one layer to the next: they may lie at the start of
  // what compute() works in, where nothing else is left when it writes them.
  std::size_t between(std::size_t rows) const { return rows * (apart(rows) ? sizes_.projected : row_memory()); }

  // On the threads that `parallel` has, with memory of the caller's: its loops may run on other threads than it began
  // on.
  void compute(const Rows& rows, const Parallel& parallel, Scratch& memory, Scratch& products) const {
    if (!apart(rows.count)) return compute_together(rows, parallel, memory, products);
    const Apart all{*this, rows};
    parallel.run(parallel.self, rows_task, (rows.count + kRowsATask - 1) / kRowsATask, const_cast<Apart*>(&all));
  }

 private:
  static constexpr std::size_t weight(std::size_t first, std::size_t product) {
    return first + kGammas + product * Product::kWeight.size();
  }

  // Of each row lie gate and up, then their product, where a hidden state was before it. What that is multiplied to
  // lies behind the projections: where gate and up were, if there is room.
  std::int64_t down_at() const {
    const std::int64_t behind = sizes_.projected, gate_up = 2 * sizes_.intermediate;
    return behind + sizes_.hidden <= gate_up ? behind : std::max(behind, gate_up + sizes_.intermediate);
  }
  std::size_t row_memory() const {
    return std::max(2 * sizes_.intermediate + std::max(sizes_.intermediate, sizes_.hidden), down_at() + sizes_.hidden);
  }

  void compute_together(const Rows& rows, const Parallel& parallel, Scratch& memory, Scratch& products) const {
    const std::size_t width = sizes_.hidden, inner = sizes_.intermediate, count = rows.count;
    const KernelTable& kernel = kernels();
    float *gate_up = at_least(memory, count * row_memory()), *gated = gate_up + count * 2 * inner;
    float *x = gated, *down = gate_up + count * down_at();
    output_.multiply(rows.attended, count, x, parallel, products);
    kernel.skip_rms_norm({count, width, rows.residual, x, gamma_, nullptr, sizes_.epsilon, x, rows.sum}, parallel);
    gate_up_.multiply(x, count, gate_up, parallel, products);
    kernel.swiglu({count, inner, gate_up, gated}, parallel);
    down_.multiply(gated, count, down, parallel, products);
    kernel.skip_rms_norm({count, width, rows.sum, down, next_gamma_, nullptr, sizes_.next_epsilon, down, rows.sum},
                     parallel);
    next_.multiply(down, count, rows.projected, parallel, products);
  }

  // Of many rows each thread may take some all the way, so that what lies between two products stays near it. Weights
  // are then read again for each task: they must stay near, too.
  static constexpr std::size_t kRowsATask = 32, kNearBytes = 4 << 20;

  bool apart(std::size_t rows) const {
    static const std::size_t threads = std::thread::hardware_concurrency();
    const std::size_t numbers = sizes_.hidden * (sizes_.attended + 3 * sizes_.intermediate + sizes_.projected);
    return Product::kRowsApart && rows >= 4 * kRowsATask * threads && numbers <= kNearBytes;
  }

  struct Apart {
    const BetweenLayer& layer;
    const Rows& rows;
  };

  static void rows_task(void* context, std::size_t index) {
    const auto& [layer, rows] = *static_cast<const Apart*>(context);
    const Sizes& sizes = layer.sizes_;
    const std::size_t first = index * kRowsATask, count = std::min(kRowsATask, rows.count - first);
    thread_local Scratch memory, products;
    layer.compute_together({rows.attended + first * sizes.attended, rows.residual + first * sizes.hidden, count,
                            rows.projected + first * sizes.projected, rows.sum + first * sizes.hidden},
                           kSerial, memory, products);
  }

  Sizes sizes_;
  const float *gamma_, *next_gamma_;
  Product output_, gate_up_, down_, next_;
};

}  // namespace edgekiln::ort
