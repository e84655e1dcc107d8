// Binds the tensors of a KV cache to the graph's past and present inputs and outputs.
#pragma once

#include <cstddef>

#include "engine/manifest.h"
#include "runtime/ort/library.h"

namespace edgekiln {

// Bind one layer's key and value buffers, each both as past input and as present output.
void bind_layer(Ort::IoBinding& binding, const GraphIO& names, std::size_t layer, const Ort::Value& keys,
                const Ort::Value& values);

}  // namespace edgekiln
