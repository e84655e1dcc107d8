// A program of an application: everything in the public C++ header is instantiated.
#include <edgekiln/edgekiln.hpp>

namespace {

[[maybe_unused]] edgekiln::Expected<edgekiln::Answer> answer(const char* directory) {
  edgekiln::EngineOptions options;
  options.kernels = edgekiln::Kernels::onnxruntime;
  const auto engine = edgekiln::Engine::open(directory, options);
  if (!engine) return engine.error();
  auto session = engine->session();
  if (!session) return session.error();
  const auto ids = engine->tokenize(engine->info().name);
  if (!ids || !engine->detokenize(*ids) || !engine->tokenize_chat({{"user", "Hi"}})) return session->generate("Hi");
  session->reset();
  session->cancel();
  if (const auto first = session->generate(*ids); !first) return engine->generate(*ids);
  if (const auto second = engine->generate("Hi"); !second) return session->chat({{"user", "Hi"}});
  session->messages().push_back({"system", "Be brief."});
  if (auto third = session->ask("Hi"); !third) return third;
  edgekiln::GenerateOptions generate;
  generate.temperature = 0.7;
  return engine->chat({{"user", "Hi"}}, generate,
                      [](const edgekiln::Token& token) { return token.finish_reason == EDGEKILN_FINISH_NONE; });
}

}  // namespace
