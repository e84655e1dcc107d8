// Options, messages, tokens and answers of the C++ API, and their conversion to the structs of the C API.
#pragma once

#include <edgekiln/edgekiln.h>

#include <cstddef>
#include <cstdint>
#include <edgekiln/expected.hpp>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgekiln {

// See edgekiln_kernels_choice.
enum class Kernels { edgekiln = EDGEKILN_KERNELS_EDGEKILN, onnxruntime = EDGEKILN_KERNELS_ONNXRUNTIME };

// See edgekiln_special_tokens.
enum class SpecialTokens {
  automatic = EDGEKILN_SPECIAL_TOKENS_AUTO,
  show = EDGEKILN_SPECIAL_TOKENS_SHOW,
  hide = EDGEKILN_SPECIAL_TOKENS_HIDE
};

// See edgekiln_mask_result.
enum class Mask {
  set = EDGEKILN_MASK_SET,
  any = EDGEKILN_MASK_ANY,
  end = EDGEKILN_MASK_END,
  cancel = EDGEKILN_MASK_CANCEL
};

// See edgekiln_mask_callback: sets bits of `mask`, which has `words` words, for the tokens that may follow `ids`.
using MaskCallback =
    std::function<Mask(const std::int64_t* ids, std::size_t count, std::uint32_t* mask, std::size_t words)>;

// See edgekiln_engine_options.
struct EngineOptions {
  int threads = 0;
  std::int64_t chunk = 0;
  Kernels kernels = Kernels::edgekiln;
  std::string kernels_library;
  std::string device;
  bool verify = true;
  bool text = true;
  bool pack_cache = true;
};

// See edgekiln_generate_options. Sampling options that are left empty take the model's own defaults, from its
// generation_config, and where it has none the most likely token is taken.
struct GenerateOptions {
  std::int64_t max_tokens = 256;
  std::optional<double> temperature;
  std::optional<std::int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool logprobs = false;
  bool speculate = true;
  SpecialTokens special_tokens = SpecialTokens::automatic;
  MaskCallback mask;
};

// See edgekiln_engine_info.
struct EngineInfo {
  std::string name;
  std::string target;
  std::string kernels;
  std::int64_t vocab_size;
  std::int64_t max_length;
  int threads;
  int max_verify_tokens;
  bool has_text;
  bool has_chat;
};

// See edgekiln_message.
struct Message {
  std::string role;
  std::string content;
  bool parse_special = false;
};

// See edgekiln_prompt_part.
struct PromptPart {
  std::string text;
  bool parse_special = false;
};

// See edgekiln_token. `text` is valid until the callback returns.
struct Token {
  std::int64_t id;
  std::string_view text;
  double logprob;
  edgekiln_finish_reason finish_reason;
};

// See edgekiln_summary.
struct Answer {
  std::string text;
  edgekiln_summary summary;
};

// Called with each token; returning false cancels.
using TokenCallback = std::function<bool(const Token&)>;

namespace detail {

// The callbacks of the C API, which collect the answer's text and call those of the C++ API.
struct TokenSink {
  const TokenCallback& on_token;
  const MaskCallback& on_mask;
  std::string text;
  std::exception_ptr exception;

  static int call(const edgekiln_token* token, void* user_data) noexcept {
    auto& self = *static_cast<TokenSink*>(user_data);
    try {
      const std::string_view text(token->text, token->text_length);
      self.text += text;
      return self.on_token && !self.on_token({token->id, text, token->logprob, token->finish_reason});
    } catch (...) {
      self.exception = std::current_exception();
      return 1;
    }
  }

  static int mask(const std::int64_t* ids, std::size_t count, std::uint32_t* mask, std::size_t words,
                  void* mask_data) noexcept {
    auto& self = *static_cast<TokenSink*>(mask_data);
    try {
      return static_cast<int>(self.on_mask(ids, count, mask, words));
    } catch (...) {
      self.exception = std::current_exception();
      return EDGEKILN_MASK_CANCEL;
    }
  }
};

// The C API would end a string at its first zero byte.
inline bool has_zero_byte(std::string_view text) { return text.find('\0') != std::string_view::npos; }

inline std::optional<Failure> check(const std::vector<Message>& messages) {
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (has_zero_byte(messages[i].role) || has_zero_byte(messages[i].content))
      return Failure{EDGEKILN_ERROR_REQUEST,
                     "message " + std::to_string(i + 1) + " has a zero byte in its role or content: remove it"};
  return std::nullopt;
}

inline std::optional<Failure> check(const GenerateOptions& options) {
  for (const std::string& text : options.stop)
    if (has_zero_byte(text)) return Failure{EDGEKILN_ERROR_REQUEST, "a stop string has a zero byte: remove it"};
  return std::nullopt;
}

inline std::vector<edgekiln_message> to_c(const std::vector<Message>& messages) {
  std::vector<edgekiln_message> result;
  result.reserve(messages.size());
  for (const Message& message : messages) {
    result.push_back(edgekiln_message EDGEKILN_MESSAGE(message.role.c_str(), message.content.c_str()));
    result.back().parse_special = message.parse_special;
  }
  return result;
}

inline std::vector<edgekiln_prompt_part> to_c(const std::vector<PromptPart>& parts) {
  std::vector<edgekiln_prompt_part> result;
  result.reserve(parts.size());
  for (const PromptPart& part : parts)
    result.push_back(edgekiln_prompt_part EDGEKILN_PROMPT_PART(part.text.data(), part.text.size(), part.parse_special));
  return result;
}

// `defaults` with the options that are set. `stop` receives the pointers that the result refers to.
inline edgekiln_generate_options to_c(const GenerateOptions& options, const edgekiln_generate_options& defaults,
                                      std::vector<const char*>& stop) {
  for (const std::string& text : options.stop) stop.push_back(text.c_str());
  edgekiln_generate_options result = defaults;
  result.max_tokens = options.max_tokens;
  result.temperature = options.temperature.value_or(defaults.temperature);
  result.top_k = options.top_k.value_or(defaults.top_k);
  result.top_p = options.top_p.value_or(defaults.top_p);
  result.min_p = options.min_p.value_or(defaults.min_p);
  result.repetition_penalty = options.repetition_penalty.value_or(defaults.repetition_penalty);
  result.has_seed = options.seed.has_value();
  result.seed = options.seed.value_or(0);
  result.stop = stop.data();
  result.stop_count = stop.size();
  result.ignore_eos = options.ignore_eos;
  result.logprobs = options.logprobs;
  result.speculate = options.speculate;
  result.special_tokens = static_cast<edgekiln_special_tokens>(options.special_tokens);
  return result;
}

inline edgekiln_engine_options to_c(const EngineOptions& options) {
  edgekiln_engine_options result;
  edgekiln_engine_options_init(&result);
  result.threads = options.threads;
  result.chunk = options.chunk;
  result.kernels = static_cast<edgekiln_kernels_choice>(options.kernels);
  if (!options.kernels_library.empty()) result.kernels_library = options.kernels_library.c_str();
  if (!options.device.empty()) result.device = options.device.c_str();
  result.verify = options.verify;
  result.text = options.text;
  result.pack_cache = options.pack_cache;
  return result;
}

}  // namespace detail

}  // namespace edgekiln
