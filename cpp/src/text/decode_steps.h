// The components of a decoder as streams.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "text/decoder.h"

namespace edgekiln::text {

// `joined`: the tokens before this component are joined, so that its items are pieces of one token.
std::unique_ptr<DecodeStep> make_step(const Decoder& component, bool joined);

// The bytes that the token's characters represent in byte-level BPE, or the token if one of them represents none.
std::string byte_level_bytes(std::string_view token);

// The byte of a token like <0x0A>.
std::optional<char> fallback_byte(std::string_view token);

}  // namespace edgekiln::text
