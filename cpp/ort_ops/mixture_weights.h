// How a post-attention block with a mixture of experts reads its constants from a node.
#pragma once

#include <algorithm>
#include <array>
#include <string>

#include "kernels/mixture_block.h"
#include "ort_ops/expert_inputs.h"
#include "ort_ops/expert_weights.h"
#include "ort_ops/post_attention_weights.h"

namespace edgekiln::ort {

inline constexpr std::string_view kMixturePostAttention = "MixturePostAttention",
                                  kMixtureDecoderLayers = "MixtureDecoderLayers";

// The weights of experts in a format of post-attention blocks.
template <typename Format>
struct ExpertsOf;
template <>
struct ExpertsOf<GroupBias> : GroupBiasExperts {};
template <>
struct ExpertsOf<ZeroPoint> : ZeroPointExperts {};
template <>
struct ExpertsOf<Symmetric> : SymmetricExperts {};
template <>
struct ExpertsOf<Codebook> : CodebookExperts {};
template <>
struct ExpertsOf<PerTokenInt8> : PerTokenInt8Experts {};

inline RouterScore router_score(const OrtKernelInfo* info) {
  const std::string name = text(info, "score");
  if (name == "softmax") return RouterScore::kSoftmax;
  if (name == "softmax_of_chosen") return RouterScore::kSoftmaxOfChosen;
  if (name == "sigmoid") return RouterScore::kSigmoid;
  fail("score must be softmax, softmax_of_chosen or sigmoid, and is \"" + name + "\"");
}

// The constant inputs of one block, counted from the first of them: two norms, the router [experts, hidden], the inputs
// of four weights and, with attributes `router_biased` and `choice_biased`, the biases [experts] of the router's logits
// and of its choice. Attributes of the experts' weights begin with gate_up_ and down_.
template <typename Format>
struct MixtureConstants {
  using Experts = ExpertsOf<Format>;
  using Block = MixturePostAttentionBlock<typename Format::Weight, typename Experts::Format>;
  static constexpr std::size_t kWeightInputs = Format::kWeightTypes.size();
  static_assert(Experts::kCount == kWeightInputs);
  enum Input : std::size_t {
    kGamma,
    kNextGamma,
    kRouter,
    kOutputWeight,
    kGateUpWeight = kOutputWeight + kWeightInputs,
    kDownWeight = kGateUpWeight + kWeightInputs,
    kNextWeight = kDownWeight + kWeightInputs
  };
  static constexpr std::size_t kCount = kNextWeight + kWeightInputs, kOptional = 2;
  static constexpr const char* kPostAttentionName = kJoined<Format::kPrefix, kMixturePostAttention>.data();
  static constexpr const char* kDecoderLayersName = kJoined<Format::kPrefix, kMixtureDecoderLayers>.data();
  static constexpr const char* kInt8CacheName = kJoined<Format::kPrefix, kMixtureDecoderLayers, kInt8Cache>.data();
  static constexpr auto kTypes = [] {
    std::array<ONNXTensorElementDataType, kCount> types{};
    types.fill(kFloat);
    for (std::size_t i = kOutputWeight; i < kCount; ++i)
      types[i] = Format::kWeightTypes[(i - kOutputWeight) % kWeightInputs];
    return types;
  }();

  // How many constants each block of a node has.
  static std::size_t count(const OrtKernelInfo* info) {
    return kCount + (integer(info, "router_biased") ? 1 : 0) + (integer(info, "choice_biased") ? 1 : 0);
  }

  // The block whose constants begin at input `first`; widths and epsilons are attributes of the node.
  static Block load(const WeightPacker& packer, std::size_t first) {
    const OrtKernelInfo* const info = packer.info();
    const DecoderWidths widths = decoder_widths(info);
    const Router router = load_router(info, first, widths.hidden);
    const auto* gamma = constant_input<float>(info, first + kGamma, widths.hidden);
    const auto* next_gamma = constant_input<float>(info, first + kNextGamma, widths.hidden);
    if (!gamma || !next_gamma) fail("norms must be constant");
    const auto experts = [&](Input input, std::size_t k, std::size_t n, const char* prefix) {
      if (expert_count(info, first + input) != router.experts) fail("the router has another number of experts");
      return Experts::load(packer, first + input, router.experts, k, n, prefix);
    };
    return {widths,
            real(info, "epsilon"),
            real(info, "next_epsilon"),
            gamma,
            next_gamma,
            router,
            Format::load(packer, first + kOutputWeight, widths.attended, widths.hidden),
            experts(kGateUpWeight, widths.hidden, 2 * widths.intermediate, "gate_up_"),
            experts(kDownWeight, widths.intermediate, widths.hidden, "down_"),
            Format::load(packer, first + kNextWeight, widths.hidden, widths.projected)};
  }

 private:
  static Router load_router(const OrtKernelInfo* info, std::size_t first, std::size_t hidden) {
    Router router{};
    router.experts = expert_count(info, first + kRouter);
    router.chosen = static_cast<std::size_t>(integer(info, "chosen"));
    router.hidden = hidden;
    if (!router.chosen || router.chosen > router.experts) fail("there are fewer experts than a token chooses");
    router.weight = constant_input<float>(info, first + kRouter, router.experts * hidden);
    std::size_t bias = first + kCount;
    if (integer(info, "router_biased")) router.bias = constant_input<float>(info, bias++, router.experts);
    if (integer(info, "choice_biased")) router.choice_bias = constant_input<float>(info, bias++, router.experts);
    if ((integer(info, "router_biased") && !router.bias) || (integer(info, "choice_biased") && !router.choice_bias))
      fail("the biases of the router must be constant");
    router.score = router_score(info);
    router.normalized = integer(info, "gates_normalized") != 0;
    router.sum_epsilon = real(info, "gate_epsilon");
    router.scale = real(info, "gate_scale");
    return router;
  }
};

}  // namespace edgekiln::ort
