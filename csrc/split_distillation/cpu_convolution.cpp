// split_distillation of a 3 x 3 convolution on the CPU, for every type and layout.
#include "cpu_convolution.h"

namespace lightsr {
namespace {

template <class T, bool last>
void run(const DenseConv& convolution, const SplitDistillation& call) {
  using E = typename Numbers<T>::Wide;
  dense::Winograd<E, T, last, distillation::EndOfConvolution<T, last>>(convolution, call).run();
}

template <class T>
void run_as(const DenseConv& convolution, const SplitDistillation& call) {
  if (call.channels_last) {
    run<T, true>(convolution, call);
  } else {
    run<T, false>(convolution, call);
  }
}

}  // namespace

void split_distillation_convolved_cpu(const DenseConv& convolution, const SplitDistillation& call) {
  switch (call.type) {
    case Type::float32:
      return run_as<float>(convolution, call);
    case Type::float64:
      return run_as<double>(convolution, call);
    case Type::float16:
      return run_as<Float16>(convolution, call);
    case Type::bfloat16:
      return run_as<BFloat16>(convolution, call);
  }
}

}  // namespace lightsr
