// Answers as the Python tests ask, through the C++ wrapper of the C interface: one JSON request a line on stdin, one
// JSON answer a line on stdout. The arguments are the engine directory and JSON options of the engine.
#include <edgekiln/edgekiln.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

using edgekiln::Expected;
using nlohmann::json;

edgekiln::Options options_of(const json& request) {
  edgekiln::Options options;
  options.values.max_tokens = request.value("max_tokens", options.values.max_tokens);
  options.values.temperature = request.value("temperature", options.values.temperature);
  options.values.top_k = request.value("top_k", options.values.top_k);
  options.values.top_p = request.value("top_p", options.values.top_p);
  options.values.min_p = request.value("min_p", options.values.min_p);
  options.values.repetition_penalty = request.value("repetition_penalty", options.values.repetition_penalty);
  options.values.has_seed = request.contains("seed");
  options.values.seed = request.value("seed", options.values.seed);
  options.values.ignore_eos = request.value("ignore_eos", false);
  options.values.logprobs = request.value("logprobs", false);
  options.values.speculate = request.value("speculate", options.values.speculate != 0);
  options.stop = request.value("stop", options.stop);
  return options;
}

json failed(const edgekiln::Failure& failure) { return {{"status", failure.status}, {"error", failure.message}}; }

Expected<edgekiln::Answer> ask(edgekiln::Session& session, const json& request,
                               const edgekiln::TokenCallback& callback) {
  const edgekiln::Options options = options_of(request);
  if (request.contains("text")) return session.generate(request["text"].get<std::string>(), options, callback);
  if (!request.contains("messages"))
    return session.generate(request.at("ids").get<std::vector<std::int64_t>>(), options, callback);
  std::vector<edgekiln::Message> messages;
  for (const json& message : request["messages"]) messages.push_back({message.at("role"), message.at("content")});
  return session.chat(messages, options, callback);
}

// `cancel_after`: tokens after which another thread cancels; 0 cancels a while after the start, in mid-prompt.
json answer(edgekiln::Session& session, const json& request) {
  json ids = json::array();
  json pieces = json::array();
  json logprobs = json::array();
  const std::int64_t cancel_after = request.value("cancel_after", std::int64_t{-1});
  const auto cancel = [&session] { std::thread([&session] { session.cancel(); }).join(); };
  std::thread early;
  if (cancel_after == 0)
    early = std::thread([&session, wait = request.value("cancel_wait_ms", 50)] {
      std::this_thread::sleep_for(std::chrono::milliseconds(wait));
      session.cancel();
    });
  const auto result = ask(session, request, [&](const edgekiln::Token& token) {
    ids.push_back(token.id);
    pieces.push_back(token.text);
    if (request.value("logprobs", false)) logprobs.push_back(token.logprob);
    if (static_cast<std::int64_t>(ids.size()) == cancel_after) cancel();
    return static_cast<std::int64_t>(ids.size()) != request.value("refuse_after", std::int64_t{-1});
  });
  if (early.joinable()) early.join();
  json reply = result ? json{{"status", 0}} : failed(result.error());
  reply["ids"] = ids;
  reply["pieces"] = pieces;
  reply["logprobs"] = logprobs;
  if (result) {
    reply["text"] = result->text;
    reply["finish"] = result->summary.finish;
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

// The requests of `each`, one thread and one session each, at once.
json together(const edgekiln::Engine& engine, const json& each) {
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
  edgekiln_engine_options options = edgekiln::Engine::defaults();
  options.threads = chosen.value("threads", options.threads);
  options.chunk = chosen.value("chunk", options.chunk);
  options.native = chosen.value("native", true);
  options.verify = chosen.value("verify", true);
  options.text = chosen.value("text", true);
  const std::string kernels = chosen.value("kernels", std::string());
  if (!kernels.empty()) options.kernels = kernels.c_str();
  const std::string device = chosen.value("device", std::string());
  if (!device.empty()) options.device = device.c_str();
  Expected<edgekiln::Engine> engine = edgekiln::Engine::open(arguments[1], options);
  if (!engine) {
    std::cout << failed(engine.error()) << std::endl;
    return 0;
  }
  const edgekiln_engine_info info = engine->info();
  std::cout << json{{"status", 0},
                    {"name", info.name},
                    {"target", info.target},
                    {"kernels", info.kernels},
                    {"vocab_size", info.vocab_size},
                    {"max_length", info.max_length},
                    {"threads", info.threads},
                    {"has_chat", info.has_chat}}
            << std::endl;
  Expected<edgekiln::Session> session = engine->session();
  if (!session) return 1;
  for (std::string line; std::getline(std::cin, line);) {
    const json request = json::parse(line);
    if (request.contains("reset")) session->reset();
    std::cout << (request.contains("together") ? together(*engine, request["together"]) : answer(*session, request))
              << std::endl;
  }
}
