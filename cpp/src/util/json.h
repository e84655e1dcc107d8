// Reading checked values out of JSON. What is not as it should be is thrown, and caught where the file was named.
#pragma once

#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/file.h"
#include "util/result.h"
#include "util/str_cat.h"

namespace edgekiln::text {

struct Refused : std::exception {
  explicit Refused(Code kind, std::string text) : code(kind), reason(std::move(text)) {}
  const char* what() const noexcept override { return reason.c_str(); }

  Code code;
  std::string reason;  // what is wrong: "model.vocab is no object"
};

// What `read` makes of the file at `path`, or the error for what it throws: Refused, or nlohmann's own.
template <typename Read>
auto checked(std::string_view path, const Read& read) -> Result<decltype(read())>;

// Code::kEngine and Code::kUnsupported.
[[noreturn]] void damaged(std::string reason);
[[noreturn]] void unsupported(std::string reason);

// The member of an object, or null if there is none or it is null. Throws Refused if `object` is none.
const nlohmann::json* member(const nlohmann::json& object, const char* key);

// Throw Refused if the member is missing or of another type; `otherwise` is for one that is missing.
std::string string_of(const nlohmann::json& object, const char* key);
bool flag_of(const nlohmann::json& object, const char* key, bool otherwise);
std::uint64_t number_of(const nlohmann::json& object, const char* key);
const nlohmann::json& list_of(const nlohmann::json& object, const char* key);

template <typename Read>
auto checked(std::string_view path, const Read& read) -> Result<decltype(read())> {
  try {
    return read();
  } catch (const Refused& refused) {
    if (refused.code == Code::kUnsupported)
      return Error{refused.code, sentence(path, " has ", refused.reason, ", which this library does not know")};
    return damaged_file(path, refused.reason);
  } catch (const nlohmann::json::exception&) {
    return damaged_file(path, "it is not JSON");
  }
}

}  // namespace edgekiln::text
