// The states of ort-cpu; see runtime/states.h.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/manifest.h"
#include "runtime/ort/library.h"
#include "runtime/states.h"
#include "util/zeroed_memory.h"

namespace edgekiln {

// ONNX Runtime's type of a state.
ONNXTensorElementDataType state_type(const StateSpec& state);

// Bytes of a state of one sequence.
std::size_t state_bytes(const StateSpec& state);

// Where each state begins in a buffer of all states: multiples of 64 bytes. The last entry is the size of the buffer.
std::vector<std::size_t> state_offsets(const std::vector<StateSpec>& states);

// The states of one sequence, each [1, ...]. A buffer of all states is one piece of memory.
class OrtStates final : public States {
 public:
  // `states` must outlive the object.
  explicit OrtStates(const std::vector<StateSpec>& states) : states_(states), offsets_(state_offsets(states)) {}

  // Allocate both buffers, if they are not there; false if there is not enough memory.
  [[nodiscard]] bool allocate();

  // Bind all states for runs that read the buffer `front`, 0 or 1, and write the other one. Throws Ort::Exception.
  void bind(Ort::IoBinding& binding, const GraphIO& names, std::size_t front) const;

 private:
  Result<Snapshots::States> save(std::size_t buffer) override;
  Result<void> load(std::size_t buffer, const Snapshots::States& states) override;
  Result<void> clear(std::size_t buffer) override;
  std::size_t size() const { return offsets_.back(); }
  std::byte* memory_of(std::size_t buffer) const { return memory_.get() + buffer * size(); }

  const std::vector<StateSpec>& states_;
  const std::vector<std::size_t> offsets_;
  ZeroedMemory memory_;  // of both buffers
};

}  // namespace edgekiln
