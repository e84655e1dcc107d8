// edgekiln.ort::*BetweenAttentions: what lies between a decoder layer's attention and the next one's, in one piece.
#pragma once

#include <algorithm>
#include <array>
#include <thread>

#include "kernels.h"
#include "matmul_n_bits_op.h"
#include "ort.h"
#include "row_quantized_op.h"
#include "team.h"

namespace edgekiln::ort {

// A product of the graph, as BetweenAttentions takes it: the types of its weight's inputs, what packs them, and
// multiply().
struct OffsetProduct : CodeProduct {
  static constexpr const char* kName = "OffsetBetweenAttentions";
  static constexpr bool kRowsApart = false;  // their weights would be brought to 8 bits for each task
  static constexpr std::array kWeight{ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                      ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT};
  OffsetProduct(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns)
      : CodeProduct(info, first, depth, columns, Zero::kOffsets) {}
};

struct ZeroPointProduct : CodeProduct {
  static constexpr const char* kName = "ZeroPointBetweenAttentions";
  static constexpr bool kRowsApart = false;
  static constexpr std::array kWeight{ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                      ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8};
  ZeroPointProduct(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns)
      : CodeProduct(info, first, depth, columns, Zero::kZeroPoints) {}
};

struct Int8Product {
  static constexpr const char* kName = "RowQuantizedBetweenAttentions";
  static constexpr bool kRowsApart = true;  // of one byte each
  static constexpr std::array kWeight{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT};
  Int8Product(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns)
      : panels(constant_panels(info, first, depth, columns)) {}
  void multiply(const float* a, std::size_t rows, float* out, const Parallel& parallel, Scratch& scratch) const {
    kernels().front().row_quantized(panels, a, rows, out, parallel, scratch);
  }
  Int8Panels panels;
};

// An op of our own, as RowQuantizedMatMul is; with constant weights only.
template <typename Product>
class BetweenAttentions {
 public:
  static constexpr const char* kName = Product::kName;
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  static constexpr std::size_t kProducts = 4, kFirstWeight = 4;
  // attended, residual, gamma, next gamma; the weights of the output, of gate and up, of down, of the next projections
  static constexpr auto kInputs = [] {
    std::array<ONNXTensorElementDataType, kFirstWeight + kProducts * Product::kWeight.size()> types{};
    types.fill(kFloat);
    for (std::size_t i = 0; i < kProducts * Product::kWeight.size(); ++i)
      types[kFirstWeight + i] = Product::kWeight[i % Product::kWeight.size()];
    return types;
  }();
  // projected, sum
  static constexpr std::array<ONNXTensorElementDataType, 2> kOutputs{kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit BetweenAttentions(const OrtKernelInfo* info)
      : attended_(integer(info, "attended")),
        hidden_(integer(info, "hidden")),
        intermediate_(integer(info, "intermediate")),
        projected_(integer(info, "projected")),
        epsilon_(real(info, "epsilon")),
        next_epsilon_(real(info, "next_epsilon")),
        gamma_(constant_input<float>(info, 2, hidden_)),
        next_gamma_(constant_input<float>(info, 3, hidden_)),
        output_(info, weight(0), attended_, hidden_),
        gate_up_(info, weight(1), hidden_, 2 * intermediate_),
        down_(info, weight(2), intermediate_, hidden_),
        next_(info, weight(3), hidden_, projected_) {
    if (!gamma_ || !next_gamma_) fail("norms must be constant");
  }

  void compute(OrtKernelContext* context) const {
    const Tensor attended = input(context, 0), residual = input(context, 1);
    std::vector<std::int64_t> shape = attended.shape;
    if (shape.empty() || shape.back() != attended_) fail("the input is not as wide as the attention");
    shape.back() = hidden_;
    if (residual.shape != shape) fail("the residual has another shape than the output");
    std::size_t rows = 1;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    auto* sum = static_cast<float*>(output(context, 1, shape));
    shape.back() = projected_;
    auto* projected = static_cast<float*>(output(context, 0, shape));
    if (!rows) return;
    const Parallel threads{run_parallel, context};
    if (apart(rows)) {
      const Rows all{*this, attended.floats(), residual.floats(), rows, projected, sum};
      return threads.run(threads.self, rows_task, (rows + kRowsATask - 1) / kRowsATask, const_cast<Rows*>(&all));
    }
    thread_local Scratch memory, scratch;
    reserve(memory, rows);
    Scratch &own = memory, &products = scratch;
    const auto script = [&](const Parallel& parallel) {
      layer(attended.floats(), residual.floats(), rows, own.data(), projected, sum, parallel, products);
    };
    if (rows <= kQuantizedRows) return Team<decltype(script)>::run(threads, script);
    script(threads);
  }

 private:
  static constexpr std::size_t weight(std::size_t product) { return kFirstWeight + product * Product::kWeight.size(); }

  // Of many rows each thread may take some all the way, so that what lies between two products stays near it. Weights
  // are then read again for each task: they must stay near, too.
  static constexpr std::size_t kRowsATask = 32, kNearBytes = 4 << 20;

  bool apart(std::size_t rows) const {
    static const std::size_t threads = std::thread::hardware_concurrency();
    const std::size_t numbers = hidden_ * (attended_ + 3 * intermediate_ + projected_);
    return Product::kRowsApart && rows >= 4 * kRowsATask * threads && numbers <= kNearBytes;
  }

  struct Rows {
    const BetweenAttentions& op;
    const float *attended, *residual;
    std::size_t count;
    float *projected, *sum;
  };

  static void rows_task(void* context, std::size_t index) {
    const Rows& rows = *static_cast<const Rows*>(context);
    const BetweenAttentions& op = rows.op;
    const std::size_t first = index * kRowsATask, count = std::min(kRowsATask, rows.count - first);
    thread_local Scratch memory, scratch;
    op.reserve(memory, count);
    op.layer(rows.attended + first * op.attended_, rows.residual + first * op.hidden_, count, memory.data(),
             rows.projected + first * op.projected_, rows.sum + first * op.hidden_, kSerial, scratch);
  }

  // What a layer needs besides its inputs and outputs.
  void reserve(Scratch& memory, std::size_t rows) const {
    const std::size_t size = rows * 3 * (hidden_ + intermediate_);
    if (memory.size() < size) memory.resize(size);
  }

  void layer(const float* attended, const float* residual, std::size_t rows, float* memory, float* projected,
             float* sum, const Parallel& parallel, Scratch& scratch) const {
    const Kernels& kernel = kernels().front();
    const std::size_t width = hidden_, inner = intermediate_;
    float *x = memory, *normed = x + rows * width, *after = normed + rows * width;
    float *gate_up = after + rows * width, *gated = gate_up + rows * 2 * inner;
    output_.multiply(attended, rows, x, parallel, scratch);
    kernel.skip_norm({rows, width, residual, x, gamma_, nullptr, epsilon_, normed, after}, parallel);
    gate_up_.multiply(normed, rows, gate_up, parallel, scratch);
    kernel.gated_silu({rows, inner, gate_up, gated}, parallel);
    down_.multiply(gated, rows, x, parallel, scratch);
    kernel.skip_norm({rows, width, after, x, next_gamma_, nullptr, next_epsilon_, normed, sum}, parallel);
    next_.multiply(normed, rows, projected, parallel, scratch);
  }

  std::int64_t attended_, hidden_, intermediate_, projected_;
  float epsilon_, next_epsilon_;
  const float *gamma_, *next_gamma_;
  Product output_, gate_up_, down_, next_;
};

}  // namespace edgekiln::ort
