// The depthwise convolution kernels for the CPU, for each type and layout.
#include "../common/by_type.h"
#include "cpu_forward.h"
#include "cpu_pixels.h"
#include "cpu_turned.h"
#include "cpu_weight.h"
#include "cpu_weight_pixels.h"

namespace lightsr {
namespace {

// One channel in a row of pixels is one in a row of columns.
template <template <class, class, bool> class Kernel, class E, class S, class Call>
void run(const Call& call) {
  if (call.channels_last && call.c > 1)
    Kernel<E, S, true>(call).run();
  else
    Kernel<E, S, false>(call).run();
}

template <template <class, class, bool> class Kernel, class Call>
void run_as(const Call& call) {
  by_type(call.type, [&]<class T>() { run<Kernel, Wide<T>, T>(call); });
}

template <class Lines, int KW, int V>
bool run_pixels(const DepthwiseConv& call) {
  if (!Pixels<Lines, KW, V>::takes(call)) return false;
  Pixels<Lines, KW, V>(call).run();
  return true;
}

// Sums, one row of taps for each row of them, and one vector of a pixel fill the registers.
bool run_pixels(const DepthwiseConv& call) {
  if (call.type == Type::float32 && call.dw == 1) {  // with a dilation the buffer is no slower
    using Lines = Plain<float, float>;
    if constexpr (level::registers == 32)
      return run_pixels<Lines, 3, 8>(call) || run_pixels<Lines, 5, 8>(call) || run_pixels<Lines, 7, 8>(call);
    else
      return run_pixels<Lines, 3, 4>(call);
  }
#ifdef __AVX512BF16__
  if (call.type == Type::bfloat16)
    return run_pixels<Paired, 3, 4>(call) || run_pixels<Paired, 5, 4>(call) || run_pixels<Paired, 7, 4>(call);
#endif
  return false;
}

// Calls run(Turned) where that pays, and says whether it did.
template <class Call, class Run>
bool turned(const Call& call, const Run& run) {
  bool pays = false;
  by_type(call.type, [&]<class S>() {
    pays = Turned<S>::pays(call);
    if (pays) run(Turned<S>());
  });
  return pays;
}

}  // namespace

void depthwise_conv_forward_cpu(const DepthwiseConv& call) {
  if (turned(call, [&]<class S>(Turned<S>) { Turned<S>::forward(call); })) return;
  if (run_pixels(call)) return;
  if constexpr (level::pairs)  // for filters that reach a second column
    if (call.type == Type::bfloat16 && call.kw > 1 && call.dw < call.w) return run<Forward, Pair, BFloat16>(call);
  run_as<Forward>(call);
}

void depthwise_conv_backward_weight_cpu(const DepthwiseConvWeight& call) {
  if (turned(call, [&]<class S>(Turned<S>) { Turned<S>::backward_weight(call); })) return;
#ifdef __AVX512BF16__
  if (PixelWeights::takes(call)) return PixelWeights(call).run();
#endif
  run_as<WeightGradient>(call);
}

}  // namespace lightsr
