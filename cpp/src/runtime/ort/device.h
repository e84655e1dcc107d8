// Memory of a device, as ONNX Runtime hands it out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/ort/library.h"

namespace edgekiln {

constexpr char kCuda[] = "cuda";
constexpr char kCpu[] = "cpu";

// Elements that the host and the device both reach at one address, so that nothing is copied to change them.
template <typename T>
class SharedTensor {
 public:
  SharedTensor(Ort::Allocator& allocator, const Ort::MemoryInfo& device, const std::vector<std::int64_t>& shape,
               std::size_t count)
      : memory_(allocator.GetAllocation(count * sizeof(T))),
        data_(static_cast<T*>(memory_.get())),
        value_(Ort::Value::CreateTensor<T>(device, data_, count, shape.data(), shape.size())) {}

  T* data() const { return data_; }

  // A tensor of the device.
  const Ort::Value& value() const { return value_; }

 private:
  Ort::MemoryAllocation memory_;
  T* data_;
  Ort::Value value_;
};

// The first device of a kind: `cuda`, or `cpu`, whose memory is the host's.
class OrtDevice {
 public:
  // `session` runs on the device and outlives this. Throws Ort::Exception.
  OrtDevice(const std::string& name, const Ort::Session& session);

  // A float16 tensor whose values mean nothing. Throws Ort::Exception.
  Ort::Value half_tensor(const std::vector<std::int64_t>& shape);

  // A tensor of `count` elements whose values mean nothing. Throws Ort::Exception.
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
