#include "runtime/ort/states.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "runtime/ort/binding.h"

namespace edgekiln {

namespace {

constexpr std::size_t kAlignment = 64;  // bytes
// From this size on, memory is in huge pages: a decode step reads and writes it all, and they save TLB misses.
constexpr std::size_t kHugePagesFrom = std::size_t{4} << 20;

}  // namespace

ONNXTensorElementDataType state_type(const StateSpec& state) {
  if (state.dtype == "bfloat16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  return state.dtype == "float16" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

std::size_t state_bytes(const StateSpec& state) {
  return static_cast<std::size_t>(state.elements()) * (state.dtype == "float32" ? sizeof(float) : 2);
}

std::vector<std::size_t> state_offsets(const std::vector<StateSpec>& states) {
  std::vector<std::size_t> offsets{0};
  for (const StateSpec& state : states)
    offsets.push_back((offsets.back() + state_bytes(state) + kAlignment - 1) / kAlignment * kAlignment);
  return offsets;
}

bool OrtStates::allocate() {
  if (memory_) return true;
  memory_ = ZeroedMemory(2 * size(), size() >= kHugePagesFrom);
  if (memory_) begin_zeroed();
  return static_cast<bool>(memory_);
}

void OrtStates::bind(Ort::IoBinding& binding, const GraphIO& names, std::size_t front) const {
  const Ort::MemoryInfo cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto tensor = [&](std::size_t buffer, std::size_t state) {
    std::vector<std::int64_t> shape{1};
    shape.insert(shape.end(), states_[state].shape.begin(), states_[state].shape.end());
    return Ort::Value::CreateTensor(cpu, memory_of(buffer) + offsets_[state], state_bytes(states_[state]), shape.data(),
                                    shape.size(), state_type(states_[state]));
  };
  for (std::size_t state = 0; state < states_.size(); ++state)
    bind_state(binding, names, state, tensor(front, state), tensor(1 - front, state));
}

Result<Snapshots::States> OrtStates::save(std::size_t buffer) {
  return Snapshots::States(memory_of(buffer), memory_of(buffer) + size());
}

Result<void> OrtStates::load(std::size_t buffer, const Snapshots::States& states) {
  std::copy(states.begin(), states.end(), memory_of(buffer));
  return {};
}

Result<void> OrtStates::clear(std::size_t buffer) {
  std::memset(memory_of(buffer), 0, size());
  return {};
}

}  // namespace edgekiln
