// Device memory from ONNX Runtime's allocators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/ort/library.h"

namespace edgekiln {

constexpr char kCuda[] = "cuda";
constexpr char kCpu[] = "cpu";

// A tensor in memory that host and device access at the same address (pinned memory on CUDA), so that the host can
// write its elements without a copy.
template <typename T>
class SharedTensor {
 public:
  SharedTensor(Ort::Allocator& allocator, const Ort::MemoryInfo& device, const std::vector<std::int64_t>& shape,
               std::size_t count)
      : memory_(allocator.GetAllocation(count * sizeof(T))),
        data_(static_cast<T*>(memory_.get())),
        value_(Ort::Value::CreateTensor<T>(device, data_, count, shape.data(), shape.size())) {}

  T* data() const { return data_; }

  // The tensor that is bound to a graph; it refers to the memory of data().
  const Ort::Value& value() const { return value_; }

 private:
  Ort::MemoryAllocation memory_;
  T* data_;
  Ort::Value value_;
};

// The first CUDA device, or the CPU.
class OrtDevice {
 public:
  // `session` runs on the device and must outlive this object. Throws Ort::Exception.
  OrtDevice(const std::string& name, const Ort::Session& session);

  // An uninitialized float16 tensor in device memory. Throws Ort::Exception.
  Ort::Value float16_tensor(const std::vector<std::int64_t>& shape);

  // An uninitialized shared tensor of `count` elements. Throws Ort::Exception.
  template <typename T>
  SharedTensor<T> shared_tensor(const std::vector<std::int64_t>& shape, std::size_t count) {
    return {shared_allocator_, memory_, shape, count};
  }

 private:
  const Ort::MemoryInfo memory_;
  Ort::Allocator allocator_;
  Ort::Allocator shared_allocator_;
};

}  // namespace edgekiln
