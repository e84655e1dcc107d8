#include "runtime/tensorrt/session.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <numeric>
#include <utility>

#include "util/str_cat.h"

namespace edgekiln {

namespace {

nvinfer1::Dims dims(std::initializer_list<std::int64_t> sizes) {
  nvinfer1::Dims result{};
  result.nbDims = static_cast<std::int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), result.d);
  return result;
}

}  // namespace

TensorRTSession::TensorRTSession(std::unique_ptr<CudaDevice> device, TensorRTLibrary& library,
                                 std::unique_ptr<nvinfer1::ICudaEngine> engine, const Manifest& manifest)
    : device_(std::move(device)),
      library_(library),
      io_(manifest.io),
      parts_(cache_parts(manifest)),
      element_size_(edgekiln::element_size(manifest.kv_cache)),
      vocab_size_(static_cast<std::size_t>(manifest.architecture.vocab_size)),
      engine_(std::move(engine)),
      profiles_(read_profiles(*engine_, io_)) {
  for (const Profile& profile : profiles_) largest_chunk_ = std::max(largest_chunk_, profile.max_tokens);
}

Result<std::unique_ptr<TensorRTSession>> TensorRTSession::open(std::unique_ptr<CudaDevice> device,
                                                               TensorRTLibrary& library,
                                                               std::unique_ptr<nvinfer1::ICudaEngine> engine,
                                                               const Manifest& manifest) {
  auto session =
      std::unique_ptr<TensorRTSession>(new TensorRTSession(std::move(device), library, std::move(engine), manifest));
  // Every answer decodes single tokens, so a profile for one token is required.
  if (Result<int> step = profile_for(session->profiles_, 1); !step) return std::unexpected(step.error());
  const auto ids = static_cast<std::size_t>(session->largest_chunk_) * sizeof(std::int64_t);
  for (const auto& [staged, size] : {std::pair{&session->input_ids_, ids},
                                     {&session->position_ids_, ids},
                                     {&session->logits_, session->vocab_size_ * sizeof(float)}}) {
    Result<Staged> made = session->staged(size);
    if (!made) return std::unexpected(made.error());
    *staged = std::move(made).value();
  }
  return session;
}

Result<TensorRTSession::Staged> TensorRTSession::staged(std::size_t size) const {
  constexpr char kPurpose[] = "a run's inputs and outputs";
  Result<CudaMemory> on_device = device_->allocate(size, kPurpose);
  if (!on_device) return std::unexpected(on_device.error());
  Result<CudaMemory> on_host = device_->allocate_on_host(size, kPurpose);
  if (!on_host) return std::unexpected(on_host.error());
  return Staged{std::move(on_device).value(), std::move(on_host).value()};
}

// The context of the profile for `tokens`, created on first use.
Result<nvinfer1::IExecutionContext*> TensorRTSession::context(std::int64_t tokens) {
  const Result<int> profile = profile_for(profiles_, tokens);
  if (!profile) return std::unexpected(profile.error());
  auto& found = contexts_[profile.value()];
  if (found) return found.get();
  Result<std::unique_ptr<nvinfer1::IExecutionContext>> made = library_.make_context(*engine_);
  if (!made) return std::unexpected(made.error());
  if (!made.value()->setOptimizationProfileAsync(profile.value(), device_->stream()))
    return library_.refused(str_cat("takes no profile ", profile.value()));
  if (Result<void> done = device_->synchronize(); !done) return std::unexpected(done.error());
  found = std::move(made).value();
  return found.get();
}

Result<void> TensorRTSession::bind(nvinfer1::IExecutionContext& context, std::int64_t tokens, std::int64_t held,
                                   std::span<const PartBuffers> buffers) const {
  const auto shape = [&](const std::string& name, const nvinfer1::Dims& sizes) -> Result<void> {
    if (context.setInputShape(name.c_str(), sizes)) return {};
    return library_.refused(str_cat("takes no ", name, " for ", tokens, " tokens behind ", held));
  };
  const auto address = [&](const std::string& name, std::byte* memory) -> Result<void> {
    if (context.setTensorAddress(name.c_str(), memory)) return {};
    return library_.refused(str_cat("takes no address for ", name));
  };
  for (const auto& [name, memory] : {std::pair{&io_.input_ids, &input_ids_}, {&io_.position_ids, &position_ids_}}) {
    if (Result<void> done = shape(*name, dims({1, tokens})); !done) return done;
    if (Result<void> done = address(*name, memory->on_device.get()); !done) return done;
  }
  if (Result<void> done = address(io_.logits, logits_.on_device.get()); !done) return done;
  for (std::size_t index = 0; index < parts_.size(); ++index) {
    const CachePart& part = parts_[index];
    if (Result<void> done = shape(part.past, dims({1, part.heads, held, part.head_dim})); !done) return done;
    if (Result<void> done = address(part.past, buffers[index].past); !done) return done;
    if (Result<void> done = address(part.present, buffers[index].present); !done) return done;
  }
  return {};
}

Result<void> TensorRTSession::send(const Staged& staged, std::size_t size) const {
  return device_->copy({staged.on_device.get(), size}, {staged.on_host.get(), size}, size, 1, cudaMemcpyHostToDevice);
}

Result<void> TensorRTSession::run(Ids tokens, std::int64_t held, std::span<const PartBuffers> buffers,
                                  std::span<float> logits) {
  const Result<nvinfer1::IExecutionContext*> found = context(static_cast<std::int64_t>(tokens.size()));
  if (!found) return std::unexpected(found.error());
  if (Result<void> bound = bind(*found.value(), static_cast<std::int64_t>(tokens.size()), held, buffers); !bound)
    return bound;
  std::vector<std::int64_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), held);
  std::memcpy(input_ids_.on_host.get(), tokens.data(), tokens.size_bytes());
  std::memcpy(position_ids_.on_host.get(), positions.data(), tokens.size_bytes());
  if (Result<void> sent = send(input_ids_, tokens.size_bytes()); !sent) return sent;
  if (Result<void> sent = send(position_ids_, tokens.size_bytes()); !sent) return sent;
  if (!found.value()->enqueueV3(device_->stream())) return library_.refused("failed while running the engine");
  const std::size_t size = logits.size_bytes();
  if (Result<void> fetched = device_->copy({logits_.on_host.get(), size}, {logits_.on_device.get(), size}, size, 1,
                                           cudaMemcpyDeviceToHost);
      !fetched)
    return fetched;
  if (Result<void> done = device_->synchronize(); !done) return done;
  std::memcpy(logits.data(), logits_.on_host.get(), size);
  return {};
}

}  // namespace edgekiln
