// The gradients of dense_conv's filters and bias on the CPU, for each type.
#include "../common/by_type.h"
#include "cpu_weight_winograd.h"

namespace lightsr {
namespace {

using namespace dense_weight;

// Transforms are made once for all filters or channels, so they pay where there are some.
bool worth_transforming(const DenseConvWeight& call) {
  return call.kh == 3 && call.kw == 3 && call.h > 1 && call.w > 1 && call.ins >= 12 && call.outs >= 12;
}

}  // namespace

void dense_conv_backward_weight_cpu(const DenseConvWeight& call) {
  by_type(call.type, [&]<class T>() {
    if constexpr (std::is_same_v<Wide<T>, float>)
      if (worth_transforming(call) && WinogradGradient<T>(call).run()) return;
    WeightGradient<Wide<T>, T>(call).run();
  });
}

}  // namespace lightsr
