// split_distillation of a 3 x 3 convolution on the CPU, for every type and layout.
#include "cpu_convolution.h"
#include "../common/by_type.h"

namespace lightsr {
namespace {

template <class T, bool last>
void run(const DenseConv& convolution, const SplitDistillation& call) {
  using E = Wide<T>;
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
  by_type(call.type, [&]<class T>() { run_as<T>(convolution, call); });
}

}  // namespace lightsr
