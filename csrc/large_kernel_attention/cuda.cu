// The launchers of large_kernel_attention: t into the workspace (field.cuh), then everything else (mix.cuh).
//
// Two passes of the depthwise convolution make t, what lies between them in the workspace too, where one pass does not
// pay: in channels_last, where the channels of a pixel would have to share a block's memory and leave tiles so small
// that the halo is most of them; where filters or dilation reach so far that it is so in NCHW; and for 16-bit types
// beyond about a million numbers, which the tensor cores of those passes bring through at the speed of memory (27 us
// for (1, 64, 360, 640) on an H200 by the floors), where one pass waits for the FMA units (42 us).
#include "../depthwise_conv/arguments.h"
#include "arguments.h"
#include "field_any.cuh"
#include "mix.cuh"
#include "mix_part.cuh"

namespace lightsr {
namespace {

using namespace attention;

// One channel or one pixel a picture is the same memory in both layouts.
LargeKernelAttention in_planes(LargeKernelAttention call) {
  if (call.c == 1 || (call.h == 1 && call.w == 1)) call.channels_last = false;
  return call;
}

template <class T>
struct Plans {
  explicit Plans(const LargeKernelAttention& call) : field(field_plan<T>(call)), mix(mix_plan<T>(call)) {
    picture = round_up<int64_t>(call.n * call.c * call.h * call.w * static_cast<int64_t>(sizeof(T)), 256);
    const bool large = sizeof(T) == 2 && picture > 2 << 20;
    one_pass = !call.channels_last && field.shared_bytes != 0 && !large;
    whole = mix.shared_bytes != 0;
    // t, and after it what lies between the depthwise convolutions, then y.
    workspace = picture * (one_pass && (whole || call.out_weight == nullptr) ? 1 : 2);
  }
  FieldPlan field;
  MixPlan mix;
  int64_t picture, workspace;  // bytes
  bool one_pass, whole;
};

int two_passes(const LargeKernelAttention& call, void* between, void* stream) {
  DepthwiseConv conv{};
  conv.type = call.type;
  conv.channels_last = call.channels_last;
  conv.n = call.n, conv.c = call.c, conv.h = call.h, conv.w = call.w;
  conv.kh = call.kh1, conv.kw = call.kw1, conv.dh = 1, conv.dw = 1;
  conv.x = call.x, conv.weight = call.weight1, conv.bias = call.bias1, conv.out = between;
  if (const int error = depthwise_conv_forward_cuda(conv, stream)) return error;
  conv.kh = call.kh2, conv.kw = call.kw2, conv.dh = call.dilation, conv.dw = call.dilation;
  conv.x = between, conv.weight = call.weight2, conv.bias = call.bias2, conv.out = call.workspace;
  return depthwise_conv_forward_cuda(conv, stream);
}

template <class T, bool last>
int mix_launch(const LargeKernelAttention& call, const Plans<T>& plans, void* y, void* stream) {
  const MixPlan& plan = plans.mix;
  if (plans.whole) {
    return LIGHTSR_LAUNCH((mix_whole<T, last>), plan.blocks, plan.threads, plan.shared_bytes, stream, call, plan);
  }
  const bool second = call.out_weight != nullptr;
  MixPart part{};
  part.c = call.c, part.area = call.h * call.w;
  part.weight = call.mix_weight, part.bias = call.mix_bias, part.from = call.workspace, part.gate = call.x;
  part.residual = second ? nullptr : call.residual, part.out = second ? y : call.out;
  const int error = mix_part_launch<T, last>(part, call.n, stream);
  if (error != 0 || !second) return error;
  part.weight = call.out_weight, part.bias = call.out_bias, part.from = y, part.gate = nullptr;
  part.residual = call.residual, part.out = call.out;
  return mix_part_launch<T, last>(part, call.n, stream);
}

template <class T>
int forward(const LargeKernelAttention& call, void* stream) {
  const Plans<T> plans(call);
  void* const after = static_cast<char*>(call.workspace) + plans.picture;
  const int error = plans.one_pass ? field_launch<T>(call, plans.field, stream) : two_passes(call, after, stream);
  if (error != 0) return error;
  return call.channels_last ? mix_launch<T, true>(call, plans, after, stream)
                            : mix_launch<T, false>(call, plans, after, stream);
}

}  // namespace

int64_t large_kernel_attention_workspace(const LargeKernelAttention& given) {
  const LargeKernelAttention call = in_planes(given);
  return by_type(call.type, [&]<class T>() { return Plans<T>(call).workspace; });
}

int large_kernel_attention_forward_cuda(const LargeKernelAttention& given, void* stream) {
  const LargeKernelAttention call = in_planes(given);
  return by_type(call.type, [&]<class T>() { return forward<T>(call, stream); });
}

}  // namespace lightsr
