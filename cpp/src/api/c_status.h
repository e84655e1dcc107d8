// Failures of the C API: exceptions and errors become an edgekiln_status and the thread's error message.
#pragma once

#include <string_view>

#include "edgekiln/edgekiln.h"
#include "util/result.h"

namespace edgekiln {

// Store the message for edgekiln_error() in this thread.
edgekiln_status store_error(const Error& error) noexcept;

// Status and message of the exception being handled. To be called in a catch block.
edgekiln_status store_exception() noexcept;

inline Failure null_argument(std::string_view name) { return fail(Code::kRequest, name, " is NULL: give one"); }

// Call `body`, which returns Result<void>, as the body of a function of the C API.
template <typename Body>
edgekiln_status guarded(const Body& body) noexcept {
  try {
    const Result<void> result = body();
    return result ? EDGEKILN_OK : store_error(result.error());
  } catch (...) {
    return store_exception();
  }
}

}  // namespace edgekiln
