#include "runtime/ort/device.h"

namespace edgekiln {

namespace {

Ort::MemoryInfo memory_of(const std::string& device) {
  if (device == kCpu) return Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  return Ort::MemoryInfo("Cuda", OrtDeviceAllocator, 0, OrtMemTypeDefault);
}

// For CUDA, page-locked host memory, which the device reads and writes over the bus.
Ort::MemoryInfo shared_memory_of(const std::string& device) {
  if (device == kCpu) return memory_of(device);
  return Ort::MemoryInfo("CudaPinned", OrtDeviceAllocator, 0, OrtMemTypeCPUOutput);
}

}  // namespace

OrtDevice::OrtDevice(const std::string& name, const Ort::Session& session)
    : memory_(memory_of(name)), allocator_(session, memory_), shared_allocator_(session, shared_memory_of(name)) {}

Ort::Value OrtDevice::float16_tensor(const std::vector<std::int64_t>& shape) {
  return Ort::Value::CreateTensor(allocator_, shape.data(), shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
}

}  // namespace edgekiln
