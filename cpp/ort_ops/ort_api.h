// ONNX Runtime's C API for custom ops: tensors, attributes and op registration, with errors as exceptions.
#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace edgekiln::ort {

// The oldest API version with every function used here; later runtimes serve it, too.
inline constexpr std::uint32_t kApiVersion = 18;
inline const OrtApi* api = nullptr;

// The API with KernelInfo_GetConfigEntries; null where the runtime is older. Its functions are not used otherwise.
inline constexpr std::uint32_t kConfigApiVersion = 24;
inline const OrtApi* config_api = nullptr;

// Domain of the ops that ONNX Runtime does not have.
inline constexpr const char* kOwnDomain = "edgekiln.ort";

struct Failure {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status) throw Failure{status};
}

[[noreturn]] inline void fail(const std::string& message) {
  throw Failure{api->CreateStatus(ORT_INVALID_ARGUMENT, message.c_str())};
}

// Runs `body` and returns what it throws as a status; null on success.
template <typename Body>
inline OrtStatus* guarded(Body&& body) noexcept {
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
inline Value attribute(const OrtKernelInfo* info, Getter getter, const char* name, Value otherwise) {
  Value value{};
  if (OrtStatus* status = getter(info, name, &value)) {
    api->ReleaseStatus(status);
    return otherwise;
  }
  return value;
}

// An integer attribute; 0 where the node does not have it.
inline std::int64_t integer(const OrtKernelInfo* info, const char* name) {
  return attribute<std::int64_t>(info, api->KernelInfoGetAttribute_int64, name, 0);
}

// A float attribute; 0 where the node does not have it.
inline float real(const OrtKernelInfo* info, const char* name) {
  return attribute<float>(info, api->KernelInfoGetAttribute_float, name, 0.0f);
}

// A string attribute; empty where the node does not have it.
inline std::string text(const OrtKernelInfo* info, const char* name) {
  std::size_t size = 0;
  if (OrtStatus* status = api->KernelInfoGetAttribute_string(info, name, nullptr, &size)) {
    api->ReleaseStatus(status);
    return {};
  }
  std::string value(size, '\0');
  check(api->KernelInfoGetAttribute_string(info, name, value.data(), &size));
  return value.c_str();  // without the terminating null, which the size includes
}

// An attribute with a list of integers; empty where the node does not have it.
inline std::vector<std::int64_t> integers(const OrtKernelInfo* info, const char* name) {
  std::size_t size = 0;
  if (OrtStatus* status = api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) {
    api->ReleaseStatus(status);
    return {};
  }
  std::vector<std::int64_t> values(size);
  if (size) check(api->KernelInfoGetAttributeArray_int64(info, name, values.data(), &size));
  return values;
}

inline std::size_t element_count(std::span<const std::int64_t> shape) {
  std::size_t count = 1;
  for (const std::int64_t dim : shape) count *= dim;
  return count;
}

// The product of all dimensions but the last; the rank must be at least 1. The m of a matrix multiplication.
inline std::size_t leading_size(std::span<const std::int64_t> shape) {
  return element_count(shape.first(shape.size() - 1));
}

// The new tokens of a sequence in activations [batch, tokens, width]; all rows of a matrix are of one sequence.
inline std::size_t tokens_of(std::span<const std::int64_t> shape) {
  return shape.size() < 2 ? 1 : static_cast<std::size_t>(shape[shape.size() - 2]);
}

struct Tensor {
  const void* data = nullptr;
  std::vector<std::int64_t> shape;

  explicit operator bool() const { return data != nullptr; }
  const float* floats() const { return static_cast<const float*>(data); }
  const std::int32_t* ints() const { return static_cast<const std::int32_t*>(data); }
};

inline Tensor tensor_of(const OrtValue* value) {
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

// An input; false if an optional one is missing.
inline Tensor input(OrtKernelContext* context, std::size_t index) {
  const OrtValue* value = nullptr;
  check(api->KernelContext_GetInput(context, index, &value));
  return tensor_of(value);
}

// The data of an input whose shape is known; null if an optional one is missing.
inline const void* input_data(OrtKernelContext* context, std::size_t index) {
  const OrtValue* value = nullptr;
  check(api->KernelContext_GetInput(context, index, &value));
  if (!value) return nullptr;
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

// An input that is an initializer; false if the graph computes it.
inline Tensor constant_tensor(const OrtKernelInfo* info, std::size_t index) {
  const OrtValue* value = nullptr;
  int constant = 0;
  check(api->KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
  return tensor_of(constant ? value : nullptr);
}

// The data of an initializer with `count` elements; null if the graph computes that input.
template <typename Element>
inline const Element* constant_input(const OrtKernelInfo* info, std::size_t index, std::size_t count) {
  const Tensor tensor = constant_tensor(info, index);
  if (!tensor) return nullptr;
  const std::size_t elements = element_count(tensor.shape);
  if (elements != count)
    fail("input " + std::to_string(index) + " has " + std::to_string(elements) + " elements, not " +
         std::to_string(count));
  return static_cast<const Element*>(tensor.data);
}

// An input of floats with `count` elements.
inline const float* floats_of(const Tensor& tensor, std::size_t count) {
  const std::size_t elements = element_count(tensor.shape);
  if (elements != count) fail("an input has " + std::to_string(elements) + " elements, not " + std::to_string(count));
  return tensor.floats();
}

// A config entry of the session; empty where it is not set, or the runtime does not tell.
inline std::string session_entry(const OrtKernelInfo* info, const char* name) {
  if (!config_api) return {};
  OrtKeyValuePairs* entries = nullptr;
  check(config_api->KernelInfo_GetConfigEntries(info, &entries));
  const std::unique_ptr<OrtKeyValuePairs, void (*)(OrtKeyValuePairs*)> owner(entries, config_api->ReleaseKeyValuePairs);
  const char* const value = config_api->GetKeyValue(entries, name);
  return value ? value : "";
}

inline std::size_t input_count(const OrtKernelInfo* info) {
  std::size_t count = 0;
  check(api->KernelInfo_GetInputCount(info, &count));
  return count;
}

// The memory of an output; null if no node reads it.
inline void* optional_output(OrtKernelContext* context, std::size_t index, std::span<const std::int64_t> shape) {
  OrtValue* value = nullptr;
  check(api->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  void* data = nullptr;
  if (value) check(api->GetTensorMutableData(value, &data));
  return data;
}

inline void* output(OrtKernelContext* context, std::size_t index, std::span<const std::int64_t> shape) {
  void* data = optional_output(context, index, shape);
  if (!data) fail("output " + std::to_string(index) + " is required");
  return data;
}

// Parallel::run on the session's thread pool; `self` is the OrtKernelContext.
inline void run_parallel(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context) {
  if (count == 1) return task(context, 0);
  check(api->KernelContext_ParallelFor(static_cast<const OrtKernelContext*>(self), task, count, count, context));
}

inline constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
inline constexpr auto kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
inline constexpr auto kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
inline constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
inline constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
// The element type of variadic inputs, whose types differ.
inline constexpr auto kAnyType = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

// Element types of an op's inputs and outputs, and the indices of the optional ones. In a variadic op the last input
// means one or more inputs of kAnyType, and the last output one or more outputs of its type.
struct Signature {
  std::span<const ONNXTensorElementDataType> inputs;
  std::span<const std::size_t> optional;
  std::span<const ONNXTensorElementDataType> outputs;
  std::span<const std::size_t> optional_outputs = {};
  bool variadic = false;
};

// Makes an OrtCustomOp of a Kernel, which has kName, kSignature, compute() and a constructor from OrtKernelInfo that
// throws for attributes and inputs that it does not implement.
template <typename Kernel>
struct Op : OrtCustomOp {
  Op() : OrtCustomOp{} {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return Kernel::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return Kernel::kSignature.inputs.size(); };
    GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return Kernel::kSignature.outputs.size(); };
    GetInputType = [](const OrtCustomOp*, std::size_t i) { return Kernel::kSignature.inputs[i]; };
    GetOutputType = [](const OrtCustomOp*, std::size_t i) { return Kernel::kSignature.outputs[i]; };
    GetInputCharacteristic = [](const OrtCustomOp*, std::size_t i) {
      return characteristic(Kernel::kSignature.inputs.size(), Kernel::kSignature.optional, i);
    };
    GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t i) {
      return characteristic(Kernel::kSignature.outputs.size(), Kernel::kSignature.optional_outputs, i);
    };
    GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
      return guarded([&] { *kernel = new Kernel(info); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      return guarded([&] { static_cast<const Kernel*>(kernel)->compute(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }

 private:
  static OrtCustomOpInputOutputCharacteristic characteristic(std::size_t count, std::span<const std::size_t> optional,
                                                             std::size_t i) {
    if (Kernel::kSignature.variadic && i + 1 == count) return INPUT_OUTPUT_VARIADIC;
    return std::find(optional.begin(), optional.end(), i) != optional.end() ? INPUT_OUTPUT_OPTIONAL
                                                                            : INPUT_OUTPUT_REQUIRED;
  }
};

}  // namespace edgekiln::ort
