// The states of ort-cuda, in device memory; see runtime/states.h. Snapshots are in host memory.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "engine/manifest.h"
#include "runtime/ort/cuda_graphs.h"
#include "runtime/ort/library.h"
#include "runtime/states.h"

namespace edgekiln {

// The states of one sequence, each [1, ...]. A buffer of all states is one piece of memory, which the engine's `grow`
// graph copies and clears.
class OrtCudaStates final : public States {
 public:
  // `states` and `graphs` must outlive the object.
  OrtCudaStates(const std::vector<StateSpec>& states, OrtCudaGraphs& graphs);

  // Allocate both buffers, if they are not there. Throws Ort::Exception.
  void allocate();

  // Bind all states for runs that read the buffer `front`, 0 or 1, and write the other one. Throws Ort::Exception.
  void bind(Ort::IoBinding& binding, const GraphIO& names, std::size_t front);

 private:
  Result<Snapshots::States> save(std::size_t buffer) override;
  Result<void> load(std::size_t buffer, const Snapshots::States& states) override;
  Result<void> clear(std::size_t buffer) override;
  Result<void> copy(const Ort::Value& past, const Ort::Value& present);
  Ort::Value tensor(std::size_t buffer, std::size_t state);

  const std::vector<StateSpec>& states_;
  OrtCudaGraphs& graphs_;
  const std::vector<std::size_t> offsets_;
  std::array<Ort::Value, 2> buffers_{Ort::Value(nullptr), Ort::Value(nullptr)};  // float16 [1, 1, size / 2, 1]
};

}  // namespace edgekiln
