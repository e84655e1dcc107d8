// ONNX Runtime's C interface for custom kernels, with errors as exceptions inside.
#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <vector>

namespace edgekiln::ort {

// The oldest interface that has all that is used here: later runtimes serve it too.
inline constexpr std::uint32_t kApiVersion = 18;
inline const OrtApi* api = nullptr;

// Of the ops that are not ONNX Runtime's.
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

inline std::size_t elements_of(std::span<const std::int64_t> shape) {
  std::size_t count = 1;
  for (const std::int64_t dim : shape) count *= dim;
  return count;
}

// Of all dimensions but the last, of which there is one.
inline std::size_t rows_of(std::span<const std::int64_t> shape) { return elements_of(shape.first(shape.size() - 1)); }

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

inline Tensor input(OrtKernelContext* context, std::size_t index) {
  const OrtValue* value = nullptr;
  check(api->KernelContext_GetInput(context, index, &value));
  return tensor_of(value);
}

// The data of an input whose shape is known; null if it is not there.
inline const void* input_data(OrtKernelContext* context, std::size_t index) {
  const OrtValue* value = nullptr;
  check(api->KernelContext_GetInput(context, index, &value));
  if (!value) return nullptr;
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

// An input that the graph holds as a constant; none if it is computed.
inline Tensor constant_tensor(const OrtKernelInfo* info, std::size_t index) {
  const OrtValue* value = nullptr;
  int constant = 0;
  check(api->KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
  return tensor_of(constant ? value : nullptr);
}

// The data of one of `count` elements; null if it is computed.
template <typename Element>
inline const Element* constant_input(const OrtKernelInfo* info, std::size_t index, std::size_t count) {
  const Tensor tensor = constant_tensor(info, index);
  if (!tensor) return nullptr;
  const std::size_t elements = elements_of(tensor.shape);
  if (elements != count)
    fail("input " + std::to_string(index) + " has " + std::to_string(elements) + " elements, not " +
         std::to_string(count));
  return static_cast<const Element*>(tensor.data);
}

inline std::size_t input_count(const OrtKernelInfo* info) {
  std::size_t count = 0;
  check(api->KernelInfo_GetInputCount(info, &count));
  return count;
}

// Null if nobody reads it.
inline void* optional_output(OrtKernelContext* context, std::size_t index, std::span<const std::int64_t> shape) {
  OrtValue* value = nullptr;
  check(api->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  void* data = nullptr;
  if (value) check(api->GetTensorMutableData(value, &data));
  return data;
}

inline void* output(OrtKernelContext* context, std::size_t index, std::span<const std::int64_t> shape) {
  void* data = optional_output(context, index, shape);
  if (!data) fail("output " + std::to_string(index) + " is needed");
  return data;
}

inline void run_parallel(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context) {
  if (count == 1) return task(context, 0);
  check(api->KernelContext_ParallelFor(static_cast<const OrtKernelContext*>(self), task, count, count, context));
}

inline std::int64_t integer(const OrtKernelInfo* info, const char* name) {
  return attribute<std::int64_t>(info, api->KernelInfoGetAttribute_int64, name, 0);
}

inline float real(const OrtKernelInfo* info, const char* name) {
  return attribute<float>(info, api->KernelInfoGetAttribute_float, name, 0.0f);
}

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

// Stands for the types of inputs that differ.
inline constexpr auto kAnyType = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

// Element types of an op's inputs and outputs; the optional ones may be left out. With `variadic` the last input stands
// for any number of them, of kAnyType, and the last output for any number of its type.
struct Signature {
  std::span<const ONNXTensorElementDataType> inputs;
  std::span<const std::size_t> optional;
  std::span<const ONNXTensorElementDataType> outputs;
  std::span<const std::size_t> optional_outputs = {};
  bool variadic = false;
};

// A custom op in the domain of ONNX Runtime's own. `Kernel` has a name, a signature, a constructor from OrtKernelInfo
// that throws for what it does not implement, and compute().
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
