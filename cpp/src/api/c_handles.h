// The objects behind the C API's handles, and prompts given in its types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "api/loaded_engine.h"
#include "api/session.h"
#include "edgekiln/edgekiln.h"
#include "util/result.h"

struct edgekiln_engine {
  std::shared_ptr<const edgekiln::LoadedEngine> loaded;
};

struct edgekiln_session {
  edgekiln::EngineSession session;
};

namespace edgekiln {

// Token ids of a text of `length` bytes.
Result<std::vector<std::int64_t>> encode(const LoadedEngine& engine, const char* text, std::size_t length,
                                         bool add_special, const EncodeLimits& limits);

// An error of Code::kRequest if `text` is not UTF-8.
Result<void> check_utf8(std::string_view text);

// Token ids of a prompt of parts.
Result<std::vector<std::int64_t>> encode_parts(const LoadedEngine& engine, const edgekiln_prompt_part* parts,
                                               std::size_t count, const EncodeLimits& limits);

// Token ids of a conversation, up to the assistant's next answer.
Result<std::vector<std::int64_t>> encode_chat(const LoadedEngine& engine, const edgekiln_message* messages,
                                              std::size_t count, const EncodeLimits& limits);

}  // namespace edgekiln
