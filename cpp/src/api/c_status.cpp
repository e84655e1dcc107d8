#include "api/c_status.h"

#include <exception>
#include <new>
#include <string>

namespace edgekiln {

namespace {

thread_local std::string last_error;

void store(std::string_view message) noexcept {
  try {
    last_error = message;
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";  // short enough for std::string's internal buffer
  }
}

}  // namespace

edgekiln_status store_error(const Error& error) noexcept {
  store(error.message);
  return static_cast<edgekiln_status>(error.code);
}

edgekiln_status store_exception() noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    store("out of memory");
    return EDGEKILN_ERROR_MEMORY;
  } catch (const std::exception& error) {
    store(error.what());
  } catch (...) {
    store("an error");
  }
  return EDGEKILN_ERROR_INTERNAL;
}

}  // namespace edgekiln

const char* edgekiln_version() { return EDGEKILN_VERSION; }

const char* edgekiln_error() { return edgekiln::last_error.c_str(); }
