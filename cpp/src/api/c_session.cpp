// The C API's functions on sessions: creation, cancellation and generation.
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "api/c_handles.h"
#include "api/c_status.h"
#include "api/c_structs.h"

namespace {

using namespace edgekiln;

edgekiln_generate_options generate_defaults() {
  const GenerateOptions defaults;
  edgekiln_generate_options options{};
  options.struct_size = sizeof options;
  options.max_tokens = defaults.max_tokens;
  options.temperature = defaults.sampling.temperature;
  options.top_k = defaults.sampling.top_k;
  options.top_p = defaults.sampling.top_p;
  options.min_p = defaults.sampling.min_p;
  options.repetition_penalty = defaults.sampling.repetition_penalty;
  options.speculate = defaults.speculate;
  options.special_tokens = static_cast<edgekiln_special_tokens>(defaults.special_tokens);
  return options;
}

MaskCallback mask_of(edgekiln_mask_callback callback, void* data) {
  return [=](Ids answer, std::span<std::uint32_t> mask) -> Result<MaskResult> {
    const int result = callback(answer.data(), answer.size(), mask.data(), mask.size(), data);
    if (result < EDGEKILN_MASK_SET || result > EDGEKILN_MASK_CANCEL)
      return fail(Code::kRequest, "the mask callback must return an edgekiln_mask_result, 0 to 3, got ", result);
    return static_cast<MaskResult>(result);
  };
}

Result<GenerateOptions> convert(const edgekiln_generate_options* given) {
  if (!given) return GenerateOptions{};
  const Result<edgekiln_generate_options> options = read_struct(given, generate_defaults(), kGenerateOptionsKind);
  if (!options) return std::unexpected(options.error());
  GenerateOptions result;
  result.max_tokens = options->max_tokens;
  result.sampling.temperature = options->temperature;
  result.sampling.top_k = options->top_k;
  result.sampling.top_p = options->top_p;
  result.sampling.min_p = options->min_p;
  result.sampling.repetition_penalty = options->repetition_penalty;
  if (options->has_seed) result.sampling.seed = options->seed;
  if (options->stop_count && !options->stop) return null_argument("stop");
  for (std::size_t i = 0; i < options->stop_count; ++i) {
    if (!options->stop[i]) return null_argument("a stop string");
    if (const Result<void> valid = check_utf8(options->stop[i]); !valid) return std::unexpected(valid.error());
    result.stop.emplace_back(options->stop[i]);
  }
  result.ignore_eos = options->ignore_eos != 0;
  result.logprobs = options->logprobs != 0;
  result.speculate = options->speculate != 0;
  const int special_tokens = enum_value(options->special_tokens);
  if (special_tokens < EDGEKILN_SPECIAL_TOKENS_AUTO || special_tokens > EDGEKILN_SPECIAL_TOKENS_HIDE)
    return fail(Code::kRequest,
                "special_tokens must be EDGEKILN_SPECIAL_TOKENS_AUTO (0), EDGEKILN_SPECIAL_TOKENS_SHOW (1) or ",
                "EDGEKILN_SPECIAL_TOKENS_HIDE (2), got ", special_tokens);
  result.special_tokens = static_cast<SpecialTokensChoice>(special_tokens);
  if (options->mask) result.mask = mask_of(options->mask, options->mask_data);
  return result;
}

edgekiln_token convert(const Token& token) {
  edgekiln_token result{};
  result.struct_size = sizeof result;
  result.id = token.id;
  result.text = token.text.data();
  result.text_length = token.text.size();
  result.logprob = token.logprob.value_or(std::numeric_limits<double>::quiet_NaN());
  result.finish_reason = static_cast<edgekiln_finish_reason>(token.finish_reason);
  return result;
}

edgekiln_summary convert(const Summary& summary) {
  edgekiln_summary result{};
  result.prompt_tokens = summary.prompt_tokens;
  result.cached_tokens = summary.cached_tokens;
  result.generated_tokens = summary.generated_tokens;
  result.drafted_tokens = summary.finish.speculation.drafted;
  result.accepted_tokens = summary.finish.speculation.accepted;
  result.first_token_s = summary.first_token_s;
  result.total_s = summary.total_s;
  result.finish_reason = static_cast<edgekiln_finish_reason>(summary.finish.reason);
  return result;
}

Failure empty_prompt() { return fail(Code::kRequest, "prompt is empty: give some text"); }

// `prompt`: Ids, or an EngineSession::Encode.
template <typename Prompt>
Result<void> run(EngineSession& session, const Prompt& prompt, const edgekiln_generate_options* options,
                 edgekiln_token_callback callback, void* user_data, edgekiln_summary* summary) {
  const Result<GenerateOptions> converted = convert(options);
  if (!converted) return std::unexpected(converted.error());
  std::size_t summary_size = 0;
  if (summary) {
    const Result<std::size_t> size = struct_size_of(summary, kSummaryKind);
    if (!size) return std::unexpected(size.error());
    summary_size = *size;
  }
  const auto on_token = [&](const Token& token) {
    if (!callback) return true;
    const edgekiln_token plain = convert(token);
    return callback(&plain, user_data) == 0;
  };
  const Result<Summary> result = session.generate(prompt, *converted, on_token);
  if (!result) return std::unexpected(result.error());
  if (summary) write_struct(summary, convert(*result), summary_size);
  return {};
}

}  // namespace

void edgekiln_generate_options_init_sized(edgekiln_generate_options* options, size_t struct_size) {
  if (options) write_struct(options, generate_defaults(), struct_size);
}

edgekiln_status edgekiln_engine_get_sampling(const edgekiln_engine* engine, edgekiln_generate_options* options) {
  return guarded([&]() -> Result<void> {
    if (!engine) return null_argument("engine");
    if (!options) return null_argument("options");
    Result<edgekiln_generate_options> value = read_struct(options, generate_defaults(), kGenerateOptionsKind);
    if (!value) return std::unexpected(value.error());
    const std::size_t size = value->struct_size;
    const SamplingOptions sampling = SamplingOptions::from_defaults(engine->loaded->manifest.sampling);
    value->temperature = sampling.temperature;
    value->top_k = sampling.top_k;
    value->top_p = sampling.top_p;
    value->min_p = sampling.min_p;
    value->repetition_penalty = sampling.repetition_penalty;
    write_struct(options, *value, size);
    return {};
  });
}

edgekiln_status edgekiln_session_create(const edgekiln_engine* engine, edgekiln_session** session) {
  return guarded([&]() -> Result<void> {
    if (!session) return null_argument("session");
    *session = nullptr;
    if (!engine) return null_argument("engine");
    *session = new edgekiln_session{EngineSession(engine->loaded)};
    return {};
  });
}

void edgekiln_session_free(edgekiln_session* session) { delete session; }

edgekiln_status edgekiln_session_reset(edgekiln_session* session) {
  return guarded([&]() -> Result<void> {
    if (!session) return null_argument("session");
    return session->session.reset();
  });
}

void edgekiln_session_cancel(edgekiln_session* session) {
  if (session) session->session.cancel();
}

edgekiln_status edgekiln_generate(edgekiln_session* session, const int64_t* ids, size_t count,
                                  const edgekiln_generate_options* options, edgekiln_token_callback callback,
                                  void* user_data, edgekiln_summary* summary) {
  return guarded([&]() -> Result<void> {
    if (!session) return null_argument("session");
    if (count && !ids) return null_argument("ids");
    return run(session->session, Ids(ids, count), options, callback, user_data, summary);
  });
}

edgekiln_status edgekiln_generate_text(edgekiln_session* session, const char* text, size_t text_length,
                                       const edgekiln_generate_options* options, edgekiln_token_callback callback,
                                       void* user_data, edgekiln_summary* summary) {
  return guarded([&]() -> Result<void> {
    if (!session) return null_argument("session");
    if (!text_length) return empty_prompt();
    const auto prompt = [&](const EncodeLimits& limits) {
      return encode(session->session.engine(), text, text_length, true, limits);
    };
    return run(session->session, prompt, options, callback, user_data, summary);
  });
}

edgekiln_status edgekiln_generate_chat(edgekiln_session* session, const edgekiln_message* messages,
                                       size_t message_count, const edgekiln_generate_options* options,
                                       edgekiln_token_callback callback, void* user_data, edgekiln_summary* summary) {
  return guarded([&]() -> Result<void> {
    if (!session) return null_argument("session");
    const auto prompt = [&](const EncodeLimits& limits) {
      return encode_chat(session->session.engine(), messages, message_count, limits);
    };
    return run(session->session, prompt, options, callback, user_data, summary);
  });
}

edgekiln_status edgekiln_generate_parts(edgekiln_session* session, const edgekiln_prompt_part* parts, size_t part_count,
                                        const edgekiln_generate_options* options, edgekiln_token_callback callback,
                                        void* user_data, edgekiln_summary* summary) {
  return guarded([&]() -> Result<void> {
    if (!session) return null_argument("session");
    const auto prompt = [&](const EncodeLimits& limits) -> Result<std::vector<std::int64_t>> {
      auto ids = encode_parts(session->session.engine(), parts, part_count, limits);
      if (ids && ids->empty()) return empty_prompt();
      return ids;
    };
    return run(session->session, prompt, options, callback, user_data, summary);
  });
}
