// Generates answers for the Python tests through edgekiln.hpp. stdin: one JSON request a line. stdout: one JSON reply a
// line. Arguments: the engine directory, and the engine options as JSON.
//
// With "masked" in a request, it also writes {"answer": ids} for each mask, and reads {"words": mask} or {"result": N}.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <edgekiln/edgekiln.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

using edgekiln::Expected;
using nlohmann::json;

// A number, which is a string if JSON has no such number.
double number_of(const json& request, const char* key, double fallback) {
  const json value = request.value(key, json(fallback));
  return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
}

// A text, which is {"bytes": [...]} if it may not be UTF-8.
std::string text_of(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  const auto bytes = value.at("bytes").get<std::vector<unsigned char>>();
  return {bytes.begin(), bytes.end()};
}

edgekiln::Mask ask_for_mask(const std::int64_t* ids, std::size_t count, std::uint32_t* mask, std::size_t words) {
  std::cout << json{{"answer", std::vector<std::int64_t>(ids, ids + count)}, {"words", words}} << std::endl;
  std::string line;
  std::getline(std::cin, line);
  const json reply = json::parse(line);
  const auto given = reply.value("words", std::vector<std::uint32_t>());
  std::copy_n(given.begin(), std::min(given.size(), words), mask);
  return static_cast<edgekiln::Mask>(reply.value("result", 0));
}

edgekiln::GenerateOptions options_of(const json& request) {
  edgekiln::GenerateOptions options;
  options.max_tokens = request.value("max_tokens", options.max_tokens);
  // Greedy unless the request says otherwise, whatever the model recommends.
  options.temperature = number_of(request, "temperature", 0.0);
  options.top_k = request.value("top_k", std::int64_t{0});
  options.top_p = number_of(request, "top_p", 1.0);
  options.min_p = number_of(request, "min_p", 0.0);
  options.repetition_penalty = number_of(request, "repetition_penalty", 1.0);
  if (request.contains("seed")) options.seed = request["seed"].get<std::uint64_t>();
  for (const json& text : request.value("stop", json::array())) options.stop.push_back(text_of(text));
  options.ignore_eos = request.value("ignore_eos", options.ignore_eos);
  options.logprobs = request.value("logprobs", options.logprobs);
  options.speculate = request.value("speculate", options.speculate);
  if (request.contains("special_tokens"))
    options.special_tokens = static_cast<edgekiln::SpecialTokens>(request["special_tokens"].get<int>());
  if (request.value("masked", false)) options.mask = ask_for_mask;
  return options;
}

json failed(const edgekiln::Failure& failure) { return {{"status", failure.status}, {"error", failure.message}}; }

Expected<edgekiln::Answer> ask(edgekiln::Session& session, const json& request,
                               const edgekiln::TokenCallback& callback) {
  const edgekiln::GenerateOptions options = options_of(request);
  if (request.contains("text")) return session.generate(text_of(request["text"]), options, callback);
  if (request.contains("parts")) {
    std::vector<edgekiln::PromptPart> parts;
    for (const json& part : request["parts"]) parts.push_back({text_of(part.at(0)), part.at(1).get<bool>()});
    return session.generate(parts, options, callback);
  }
  if (!request.contains("messages"))
    return session.generate(request.at("ids").get<std::vector<std::int64_t>>(), options, callback);
  std::vector<edgekiln::Message> messages;
  for (const json& message : request["messages"])
    messages.push_back({message.at("role"), text_of(message.at("content")), message.value("parse_special", false)});
  return session.chat(messages, options, callback);
}

// `cancel_after`: number of tokens after which another thread cancels; 0 cancels every cancel_wait_ms milliseconds, so
// that it happens during the prompt however fast the machine is.
json answer(edgekiln::Session& session, const json& request) {
  json ids = json::array();
  json texts = json::array();
  json logprobs = json::array();
  const std::int64_t cancel_after = request.value("cancel_after", std::int64_t{-1});
  const auto cancel = [&session] { std::thread([&session] { session.cancel(); }).join(); };
  std::atomic<bool> ended = false;
  std::thread early;
  if (cancel_after == 0)
    early = std::thread([&session, &ended, wait = request.value("cancel_wait_ms", 50)] {
      while (!ended) {
        std::this_thread::sleep_for(std::chrono::milliseconds(wait));
        session.cancel();
      }
    });
  const auto result = ask(session, request, [&](const edgekiln::Token& token) {
    ids.push_back(token.id);
    texts.push_back(token.text);
    if (request.value("logprobs", false)) logprobs.push_back(token.logprob);
    if (static_cast<std::int64_t>(ids.size()) == cancel_after) cancel();
    return static_cast<std::int64_t>(ids.size()) != request.value("refuse_after", std::int64_t{-1});
  });
  ended = true;
  if (early.joinable()) early.join();
  json reply = result ? json{{"status", 0}} : failed(result.error());
  reply["ids"] = ids;
  reply["texts"] = texts;
  reply["logprobs"] = logprobs;
  if (result) {
    reply["text"] = result->text;
    reply["finish"] = result->summary.finish_reason;
    reply["prompt_tokens"] = result->summary.prompt_tokens;
    reply["cached_tokens"] = result->summary.cached_tokens;
    reply["generated_tokens"] = result->summary.generated_tokens;
    reply["drafted_tokens"] = result->summary.drafted_tokens;
    reply["accepted_tokens"] = result->summary.accepted_tokens;
    reply["first_token_s"] = result->summary.first_token_s;
    reply["total_s"] = result->summary.total_s;
  }
  return reply;
}

// Run the requests of `each` concurrently, each with a thread and a session of its own.
json run_concurrently(const edgekiln::Engine& engine, const json& each) {
  std::vector<json> replies(each.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < each.size(); ++i)
    threads.emplace_back([&, i] {
      Expected<edgekiln::Session> session = engine.session();
      replies[i] = session ? answer(*session, each[i]) : failed(session.error());
    });
  for (std::thread& thread : threads) thread.join();
  return replies;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const json chosen = json::parse(arguments[2]);
  edgekiln::EngineOptions options;
  options.threads = chosen.value("threads", options.threads);
  options.chunk = chosen.value("chunk", options.chunk);
  if (chosen.value("kernels", std::string("edgekiln")) == "onnxruntime")
    options.kernels = edgekiln::Kernels::onnxruntime;
  options.kernels_library = chosen.value("kernels_library", options.kernels_library);
  options.device = chosen.value("device", options.device);
  options.verify = chosen.value("verify", options.verify);
  options.pack_cache = chosen.value("pack_cache", options.pack_cache);
  options.text = chosen.value("text", options.text);
  Expected<edgekiln::Engine> engine = edgekiln::Engine::open(arguments[1], options);
  if (!engine) {
    std::cout << failed(engine.error()) << std::endl;
    return 0;
  }
  const edgekiln::EngineInfo info = engine->info();
  std::cout << json{{"status", 0},
                    {"name", info.name},
                    {"target", info.target},
                    {"kernels", info.kernels},
                    {"vocab_size", info.vocab_size},
                    {"max_length", info.max_length},
                    {"threads", info.threads},
                    {"max_verify_tokens", info.max_verify_tokens},
                    {"has_chat", info.has_chat}}
            << std::endl;
  Expected<edgekiln::Session> session = engine->session();
  if (!session) return 1;
  for (std::string line; std::getline(std::cin, line);) {
    const json request = json::parse(line);
    if (request.contains("reset")) session->reset();
    std::cout << (request.contains("concurrent") ? run_concurrently(*engine, request["concurrent"])
                                                 : answer(*session, request))
              << std::endl;
  }
}
