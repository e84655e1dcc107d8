// Binding a cache's tensors to the names that a graph has for them.
#pragma once

#include <cstddef>

#include "engine/manifest.h"
#include "runtime/ort/library.h"

namespace edgekiln {

// Bind one layer's buffers, each as past and as present.
void bind_layer(Ort::IoBinding& binding, const GraphIO& names, std::size_t layer, const Ort::Value& keys,
                const Ort::Value& values);

}  // namespace edgekiln
