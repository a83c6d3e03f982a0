// The depthwise convolution's launchers: which kernel takes which call.
#include "arguments.h"
#include "direct.cuh"
#include "weight_direct.cuh"

// The tensor-core kernels, for the calls with 16-bit types that they take; without them the direct ones take all.
#if !defined(LIGHTSR_DIRECT_ONLY) && __has_include("banded.cuh")
#include "banded.cuh"
#define LIGHTSR_BANDED
#endif
#if !defined(LIGHTSR_DIRECT_ONLY) && __has_include("weight_banded.cuh")
#include "weight_banded.cuh"
#define LIGHTSR_WEIGHT_BANDED
#endif

namespace lightsr {
namespace {

constexpr int invalid_configuration = 9;  // cudaErrorInvalidConfiguration

template <class T>
int forward_direct(const DepthwiseConv& given, void* stream) {
  const DepthwiseConv call = direct_layout(given);
  const DirectPlan plan = direct_plan<T>(call);
  if (plan.blocks == 0) return invalid_configuration;
  if constexpr (direct_variant<T>(7) == 0) {
    if (call.kw < 8) return direct_launch<T, 0>(call, plan, stream);
    if (call.kw < 16) return direct_launch<T, 1>(call, plan, stream);
  }
  return direct_launch<T, -1>(call, plan, stream);
}

// The bytes of workspace where `launch` is false; else launches and gives 0 or the number of an error.
int64_t weight_call(const DepthwiseConvWeight& given, bool launch, void* stream) {
  const DepthwiseConvWeight call = direct_layout(given);
  return by_type(call.type, [&]<class T>() { return weight_direct<T>(call, launch, stream); });
}

}  // namespace

int depthwise_conv_forward_cuda(const DepthwiseConv& call, void* stream) {
#ifdef LIGHTSR_BANDED
  if (banded_takes(call)) return banded_forward(call, stream);
#endif
  return by_type(call.type, [&]<class T>() { return forward_direct<T>(call, stream); });
}

int64_t depthwise_conv_backward_weight_workspace(const DepthwiseConvWeight& call) {
#ifdef LIGHTSR_WEIGHT_BANDED
  if (weight_banded_takes(call)) return weight_banded_workspace(call);
#endif
  return weight_call(call, false, nullptr);
}

int depthwise_conv_backward_weight_cuda(const DepthwiseConvWeight& call, void* stream) {
#ifdef LIGHTSR_WEIGHT_BANDED
  if (weight_banded_takes(call)) return weight_banded(call, stream);
#endif
  return static_cast<int>(weight_call(call, true, stream));
}

}  // namespace lightsr
