// Binds the tensors of a KV cache to the graph's past and present inputs and outputs.
#pragma once

#include <cstddef>

#include "engine/manifest.h"
#include "runtime/ort/library.h"

namespace edgekiln {

// Bind the key and value buffers of a KV cache layer, each both as past input and as present output.
void bind_layer(Ort::IoBinding& binding, const GraphIO& names, std::size_t layer, const Ort::Value& keys,
                const Ort::Value& values);

// Bind a state's two buffers: the one that a run reads, and the one that it writes.
void bind_state(Ort::IoBinding& binding, const GraphIO& names, std::size_t state, const Ort::Value& past,
                const Ort::Value& present);

}  // namespace edgekiln
