// Expected failures as values: std::expected with an error code and one sentence.
#pragma once

#include <expected>
#include <string>

#include "util/str_cat.h"

namespace edgekiln {

// The values equal those of `edgekiln_status` in the C API.
enum class Code {
  kRequest = 1,      // an argument or option is out of range, or the prompt is too long
  kEngine = 2,       // the engine directory is missing, damaged or edited
  kUnsupported = 3,  // a target, schema version or tokenizer component that this library does not implement
  kRuntime = 4,      // the library that runs the graph failed
  kCancelled = 5,
  kMemory = 6,
  kInternal = 7,
};

// `message` is one sentence with the offending value, the limit and the fix.
struct Error {
  Code code;
  std::string message;
};

template <typename T>
using Result = std::expected<T, Error>;

// Converts to any Result.
using Failure = std::unexpected<Error>;

// A failure whose message is the concatenation of `parts`.
template <typename... Parts>
Failure fail(Code code, const Parts&... parts) {
  return Failure(Error{code, str_cat(parts...)});
}

}  // namespace edgekiln
