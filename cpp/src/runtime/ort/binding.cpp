#include "runtime/ort/binding.h"

#include <string>

namespace edgekiln {

namespace {

void share(Ort::IoBinding& binding, const std::string& past, const std::string& present, const Ort::Value& buffer) {
  binding.BindInput(past.c_str(), buffer);
  binding.BindOutput(present.c_str(), buffer);
}

}  // namespace

void bind_layer(Ort::IoBinding& binding, const GraphIO& names, std::size_t layer, const Ort::Value& keys,
                const Ort::Value& values) {
  share(binding, in_layer(names.past_key, layer), in_layer(names.present_key, layer), keys);
  share(binding, in_layer(names.past_value, layer), in_layer(names.present_value, layer), values);
}

void bind_state(Ort::IoBinding& binding, const GraphIO& names, std::size_t state, const Ort::Value& past,
                const Ort::Value& present) {
  binding.BindInput(of_state(names.past_state, state).c_str(), past);
  binding.BindOutput(of_state(names.present_state, state).c_str(), present);
}

}  // namespace edgekiln
