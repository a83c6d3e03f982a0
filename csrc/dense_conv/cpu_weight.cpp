// The gradients of dense_conv's filters and bias on the CPU, for each type.
#include "cpu_weight_winograd.h"

namespace lightsr {
namespace {

using namespace dense_weight;

// Transforms are made once for all filters or channels, so they pay where there are some.
bool worth_transforming(const DenseConvWeight& call) {
  return call.kh == 3 && call.kw == 3 && call.h > 1 && call.w > 1 && call.ins >= 12 && call.outs >= 12;
}

template <class S>
void run_in_float(const DenseConvWeight& call) {
  if (worth_transforming(call) && WinogradGradient<S>(call).run()) return;
  WeightGradient<float, S>(call).run();
}

}  // namespace

void dense_conv_backward_weight_cpu(const DenseConvWeight& call) {
  switch (call.type) {
    case Type::float32:
      return run_in_float<float>(call);
    case Type::float64:
      return WeightGradient<double, double>(call).run();
    case Type::float16:
      return run_in_float<Float16>(call);
    case Type::bfloat16:
      return run_in_float<BFloat16>(call);
  }
}

}  // namespace lightsr
