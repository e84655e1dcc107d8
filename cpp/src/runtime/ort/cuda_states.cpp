#include "runtime/ort/cuda_states.h"

#include <cstdint>
#include <mutex>

#include "runtime/ort/binding.h"
#include "runtime/ort/states.h"

namespace edgekiln {

namespace {

// A float16 tensor [1, 1, size / 2, 1] in host memory.
Ort::Value host_tensor(const std::byte* data, std::size_t size) {
  const std::array<std::int64_t, 4> shape{1, 1, static_cast<std::int64_t>(size / sizeof(Ort::Float16_t)), 1};
  const Ort::MemoryInfo host = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor(host, const_cast<std::byte*>(data), size, shape.data(), shape.size(),
                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
}

}  // namespace

OrtCudaStates::OrtCudaStates(const std::vector<StateSpec>& states, OrtCudaGraphs& graphs)
    : states_(states), graphs_(graphs), offsets_(state_offsets(states)) {}

void OrtCudaStates::allocate() {
  for (Ort::Value& buffer : buffers_)
    if (!buffer)
      buffer =
          graphs_.device.float16_tensor({1, 1, static_cast<std::int64_t>(offsets_.back() / sizeof(Ort::Float16_t)), 1});
}

Ort::Value OrtCudaStates::tensor(std::size_t buffer, std::size_t state) {
  std::vector<std::int64_t> shape{1};
  shape.insert(shape.end(), states_[state].shape.begin(), states_[state].shape.end());
  auto* const data = static_cast<std::byte*>(buffers_[buffer].GetTensorMutableRawData()) + offsets_[state];
  return Ort::Value::CreateTensor(buffers_[buffer].GetTensorMemoryInfo(), data, state_bytes(states_[state]),
                                  shape.data(), shape.size(), state_type(states_[state]));
}

void OrtCudaStates::bind(Ort::IoBinding& binding, const GraphIO& names, std::size_t front) {
  for (std::size_t state = 0; state < states_.size(); ++state)
    bind_state(binding, names, state, tensor(front, state), tensor(1 - front, state));
}

Result<void> OrtCudaStates::copy(const Ort::Value& past, const Ort::Value& present) {
  const std::lock_guard lock(graphs_.run_mutex);
  return ort_running([&] { graphs_.copy(past, present); });
}

Result<Snapshots::States> OrtCudaStates::save(std::size_t buffer) {
  Snapshots::States states(offsets_.back());
  if (Result<void> copied = copy(buffers_[buffer], host_tensor(states.data(), states.size())); !copied)
    return std::unexpected(copied.error());
  return states;
}

Result<void> OrtCudaStates::load(std::size_t buffer, const Snapshots::States& states) {
  return copy(host_tensor(states.data(), states.size()), buffers_[buffer]);
}

Result<void> OrtCudaStates::clear(std::size_t buffer) {
  const std::byte nothing{};
  return copy(host_tensor(&nothing, 0), buffers_[buffer]);
}

}  // namespace edgekiln
