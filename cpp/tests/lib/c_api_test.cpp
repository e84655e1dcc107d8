// Structs of the C API that are smaller, larger or not initialized. tests/cpp/test_abi.py runs an engine with them.
#include <doctest/doctest.h>
#include <edgekiln/edgekiln.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <string>

namespace {

constexpr unsigned char kCanary = 0xA5;
constexpr char kNowhere[] = "no engine directory at nowhere: build one with `edgekiln engine MODEL -o nowhere`";

// A struct of the C API in a buffer of canaries.
template <typename Struct>
class Sized {
 public:
  explicit Sized(std::size_t size) : size_(size) { bytes_.fill(kCanary); }

  Struct* get() {
    void* start = bytes_.data();
    return static_cast<Struct*>(start);
  }

  bool canaries_intact() const {
    return std::all_of(bytes_.begin() + static_cast<std::ptrdiff_t>(size_), bytes_.end(),
                       [](unsigned char byte) { return byte == kCanary; });
  }

  unsigned char& operator[](std::size_t at) { return bytes_[at]; }

 private:
  const std::size_t size_;
  alignas(std::max_align_t) std::array<unsigned char, 2 * sizeof(Struct)> bytes_;
};

std::string open(const edgekiln_engine_options* options, edgekiln_status expected) {
  edgekiln_engine* engine = nullptr;
  CHECK(edgekiln_engine_open("nowhere", options, &engine) == expected);
  CHECK(engine == nullptr);
  return edgekiln_error();
}

TEST_CASE("initialization writes the caller's bytes only") {
  for (const std::size_t size : {sizeof(std::size_t), offsetof(edgekiln_engine_options, device),
                                 sizeof(edgekiln_engine_options), sizeof(edgekiln_engine_options) + 16}) {
    Sized<edgekiln_engine_options> options(size);
    edgekiln_engine_options_init_sized(options.get(), size);
    CHECK(options.canaries_intact());
    CHECK(options.get()->struct_size == size);
    if (size > sizeof(edgekiln_engine_options)) CHECK(options[size - 1] == 0);
  }
  edgekiln_engine_options options;
  edgekiln_engine_options_init(&options);
  CHECK(options.struct_size == sizeof options);
  CHECK(options.kernels == EDGEKILN_KERNELS_EDGEKILN);
  CHECK(options.verify == 1);
  CHECK(options.text == 1);
  edgekiln_generate_options generate;
  edgekiln_generate_options_init(&generate);
  CHECK(generate.struct_size == sizeof generate);
  CHECK(generate.max_tokens == 256);
  CHECK(generate.top_p == 1);
  CHECK(generate.repetition_penalty == 1);
  CHECK(generate.speculate == 1);
  CHECK(generate.stop == nullptr);
  edgekiln_generate_options_init_sized(nullptr, 8);
}

TEST_CASE("bytes behind a smaller struct are not read") {
  // The bytes behind it would be an invalid kernels_library and device.
  const std::size_t size = offsetof(edgekiln_engine_options, kernels_library);
  Sized<edgekiln_engine_options> options(size);
  edgekiln_engine_options_init_sized(options.get(), size);
  CHECK(open(options.get(), EDGEKILN_ERROR_ENGINE) == kNowhere);
  options.get()->threads = -1;
  CHECK(options.canaries_intact());
}

TEST_CASE("a larger struct may only have zeros behind the known fields") {
  const std::size_t size = sizeof(edgekiln_engine_options) + 16;
  Sized<edgekiln_engine_options> options(size);
  edgekiln_engine_options_init_sized(options.get(), size);
  CHECK(open(options.get(), EDGEKILN_ERROR_ENGINE) == kNowhere);
  options[size - 1] = 1;
  const std::string message = open(options.get(), EDGEKILN_ERROR_UNSUPPORTED);
  CHECK(message == "edgekiln_engine_options has " + std::to_string(size) + " bytes, libedgekiln " + edgekiln_version() +
                       " knows " + std::to_string(sizeof(edgekiln_engine_options)) +
                       ", and a field behind them is set: leave it at zero, or upgrade libedgekiln");
}

TEST_CASE("a struct that is not initialized is refused") {
  edgekiln_engine_options options{};
  CHECK(open(&options, EDGEKILN_ERROR_REQUEST) ==
        "struct_size of edgekiln_engine_options is 0: initialize the struct with edgekiln_engine_options_init");
  std::memset(static_cast<void*>(&options), kCanary, sizeof options);
  CHECK(open(&options, EDGEKILN_ERROR_REQUEST).starts_with("struct_size of edgekiln_engine_options is 1"));
}

TEST_CASE("an unknown choice of kernels is refused") {
  edgekiln_engine_options options;
  edgekiln_engine_options_init(&options);
  const int unknown = 7;
  std::memcpy(&options.kernels, &unknown, sizeof unknown);
  CHECK(open(&options, EDGEKILN_ERROR_REQUEST) ==
        "kernels must be EDGEKILN_KERNELS_EDGEKILN (0) or EDGEKILN_KERNELS_ONNXRUNTIME (1), got 7");
}

TEST_CASE("missing arguments are named") {
  CHECK(edgekiln_engine_open("nowhere", nullptr, nullptr) == EDGEKILN_ERROR_REQUEST);
  CHECK(std::string(edgekiln_error()) == "engine is NULL: give one");
  CHECK(edgekiln_session_create(nullptr, nullptr) == EDGEKILN_ERROR_REQUEST);
  CHECK(std::string(edgekiln_error()) == "session is NULL: give one");
  edgekiln_engine_close(nullptr);
  edgekiln_session_free(nullptr);
  edgekiln_session_cancel(nullptr);
}

}  // namespace
