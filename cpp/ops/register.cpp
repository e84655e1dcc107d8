// Replaces ONNX Runtime's GroupQueryAttention in a session, by registering a kernel of the same name.
//
// ONNX Runtime looks custom kernels up before its own, so an engine's graph stays what every ONNX Runtime runs. What
// this kernel does not implement it refuses when the session is made, and the caller makes it without this library.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <string>

#include "attention.h"

namespace {

// The oldest interface that has all that is used here: later runtimes serve it too.
constexpr std::uint32_t kApiVersion = 18;
const OrtApi* api = nullptr;

struct Failure {
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status) throw Failure{status};
}

[[noreturn]] void fail(const std::string& message) { throw Failure{api->CreateStatus(ORT_INVALID_ARGUMENT, message.c_str())}; }

template <typename Body>
OrtStatus* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}

template <typename Value, typename Getter>
Value attribute(const OrtKernelInfo* info, Getter getter, const char* name, Value otherwise) {
  Value value{};
  if (OrtStatus* status = getter(info, name, &value)) {
    api->ReleaseStatus(status);
    return otherwise;
  }
  return value;
}

struct Tensor {
  const void* data = nullptr;
  std::vector<std::int64_t> shape;

  explicit operator bool() const { return data != nullptr; }
  const float* floats() const { return static_cast<const float*>(data); }
  const std::int32_t* ints() const { return static_cast<const std::int32_t*>(data); }
};

Tensor input(OrtKernelContext* context, std::size_t index) {
  const OrtValue* value = nullptr;
  check(api->KernelContext_GetInput(context, index, &value));
  Tensor tensor;
  if (!value) return tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->GetTensorTypeAndShape(value, &info));
  std::size_t rank = 0;
  OrtStatus* status = api->GetDimensionsCount(info, &rank);
  if (!status) {
    tensor.shape.resize(rank);
    status = api->GetDimensions(info, tensor.shape.data(), rank);
  }
  api->ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

float* output(OrtKernelContext* context, std::size_t index, std::initializer_list<std::int64_t> shape) {
  OrtValue* value = nullptr;
  check(api->KernelContext_GetOutput(context, index, shape.begin(), shape.size(), &value));
  if (!value) fail("GroupQueryAttention needs all three outputs");
  void* data = nullptr;
  check(api->GetTensorMutableData(value, &data));
  return static_cast<float*>(data);
}

void run_parallel(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context) {
  if (count == 1) return task(context, 0);
  check(api->KernelContext_ParallelFor(static_cast<const OrtKernelContext*>(self), task, count, 0, context));
}

class GroupQueryAttention {
 public:
  explicit GroupQueryAttention(const OrtKernelInfo* info) {
    const auto integer = [&](const char* name) {
      return attribute<std::int64_t>(info, api->KernelInfoGetAttribute_int64, name, 0);
    };
    const auto real = [&](const char* name) {
      return attribute<float>(info, api->KernelInfoGetAttribute_float, name, 0.0f);
    };
    heads_ = integer("num_heads");
    kv_heads_ = integer("kv_num_heads");
    if (heads_ < 1 || kv_heads_ < 1 || heads_ % kv_heads_) fail("num_heads must be a multiple of kv_num_heads");
    if (integer("smooth_softmax") > 0 || integer("qk_output") > 0) fail("smooth_softmax and qk_output are not here");
    rotary_ = integer("do_rotary") != 0;
    interleaved_ = integer("rotary_interleaved") != 0;
    window_ = std::max<std::int64_t>(0, integer("local_window_size"));
    scale_ = real("scale");
    softcap_ = real("softcap");
  }

  void compute(OrtKernelContext* context) {
    const Tensor query = input(context, 0), key = input(context, 1), value = input(context, 2);
    const Tensor past_key = input(context, 3), past_value = input(context, 4);
    const Tensor last_position = input(context, 5), total = input(context, 6);
    const Tensor cosine = input(context, 7), sine = input(context, 8);
    const std::int64_t batch = query.shape.at(0), length = query.shape.at(1);
    const bool packed = !key;
    const std::int64_t head_dim = query.shape.at(2) / (packed ? heads_ + 2 * kv_heads_ : heads_);
    const std::int64_t past_capacity = past_key.shape.at(2);
    const std::int64_t capacity = std::max<std::int64_t>(past_capacity, *total.ints());
    if (rotary_ && (!cosine || !sine)) fail("do_rotary needs cos_cache and sin_cache");

    edgekiln::AttentionCall call{};
    call.batch = batch;
    call.length = length;
    call.heads = heads_;
    call.kv_heads = kv_heads_;
    call.head_dim = head_dim;
    call.capacity = capacity;
    call.query = query.floats();
    call.key = packed ? call.query + heads_ * head_dim : key.floats();
    call.value = packed ? call.key + kv_heads_ * head_dim : value.floats();
    call.query_stride = query.shape[2];
    call.key_stride = packed ? call.query_stride : key.shape.at(2);
    call.value_stride = packed ? call.query_stride : value.shape.at(2);
    call.last_position = last_position.ints();
    for (std::int64_t row = 0; row < batch; ++row) {
      const std::int64_t last = call.last_position[row];
      if (last + 1 < length || last >= capacity) {
        fail("row " + std::to_string(row) + " ends at position " + std::to_string(last) + ", with " +
             std::to_string(length) + " new tokens and room for " + std::to_string(capacity));
      }
      if (rotary_ && last >= cosine.shape.at(0)) fail("position " + std::to_string(last) + " has no rotary angle");
    }
    call.cosine = rotary_ ? cosine.floats() : nullptr;
    call.sine = rotary_ ? sine.floats() : nullptr;
    call.rotary_dim = rotary_ ? 2 * cosine.shape.at(1) : 0;
    call.interleaved = interleaved_;
    call.scale = scale_ != 0.0f ? scale_ : 1.0f / std::sqrt(static_cast<float>(head_dim));
    call.softcap = softcap_;
    call.window = window_;
    call.out = output(context, 0, {batch, length, heads_ * head_dim});
    call.cached_key = present(context, 1, past_key, {batch, kv_heads_, capacity, head_dim});
    call.cached_value = present(context, 2, past_value, {batch, kv_heads_, capacity, head_dim});
    // A session may run on several threads, each with its own memory.
    thread_local edgekiln::Scratch scratch;
    edgekiln::kernels().front().attention(call, {run_parallel, context}, scratch);
  }

 private:
  // The output, which usually is the buffer of the past itself; else the past is copied to it.
  static float* present(OrtKernelContext* context, std::size_t index, const Tensor& past,
                        std::initializer_list<std::int64_t> shape) {
    float* to = output(context, index, shape);
    if (to == past.data) return to;
    const std::int64_t* dims = shape.begin();
    const std::int64_t from_size = past.shape.at(2) * dims[3], to_size = dims[2] * dims[3];
    for (std::int64_t head = 0; head < dims[0] * dims[1]; ++head)
      std::copy_n(past.floats() + head * from_size, from_size, to + head * to_size);
    return to;
  }

  std::int64_t heads_, kv_heads_, window_;
  bool rotary_, interleaved_;
  float scale_, softcap_;
};

struct Op : OrtCustomOp {
  Op() : OrtCustomOp{} {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return "GroupQueryAttention"; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 9; };
    GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 3; };
    GetInputType = [](const OrtCustomOp*, std::size_t i) {
      return i == 5 || i == 6 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    };
    GetOutputType = [](const OrtCustomOp*, std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
    GetInputCharacteristic = [](const OrtCustomOp*, std::size_t i) {
      return i == 1 || i == 2 || i >= 7 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
      return guarded([&] { *kernel = new GroupQueryAttention(info); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      return guarded([&] { static_cast<GroupQueryAttention*>(kernel)->compute(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<GroupQueryAttention*>(kernel); };
  }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                                 const OrtApiBase* base) {
  api = base->GetApi(kApiVersion);
  if (!api) return nullptr;  // a runtime older than this library: its own kernel stays
  static const Op op;
  OrtCustomOpDomain* domain = nullptr;
  return guarded([&] {
    check(api->CreateCustomOpDomain("com.microsoft", &domain));
    check(api->CustomOpDomain_Add(domain, &op));
    check(api->AddCustomOpDomain(options, domain));
  });
}

extern "C" __attribute__((visibility("default"))) const char* edgekiln_ops_instruction_set() {
  return edgekiln::kernels().front().instruction_set;
}
