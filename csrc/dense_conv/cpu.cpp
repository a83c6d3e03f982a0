// The kernels of dense_conv for the CPU, for each type and layout.
#include "../common/by_type.h"
#include "cpu_direct.h"
#include "cpu_winograd.h"

namespace lightsr {
namespace {

template <template <class, class, bool> class Way, class E, class S>
void run(const DenseConv& call) {
  if (call.channels_last) {
    Way<E, S, true>(call).run();
  } else {
    Way<E, S, false>(call).run();
  }
}

// By what the filters are alone: results must not depend on the size of the picture.
bool by_winograd(const DenseConv& call) {
  constexpr int64_t fewest = 12;  // channels that are worth the transforms
  return call.winograd && call.kh == 3 && call.kw == 3 && call.c >= fewest && call.outs >= fewest;
}

template <class E, class S, bool last>
using Tiled = dense::Winograd<E, S, last, dense::Finish<E, S, last>>;

template <class E, class S>
void run_as(const DenseConv& call) {
  if (by_winograd(call)) return run<Tiled, E, S>(call);
  run<dense::Direct, E, S>(call);
}

}  // namespace

void dense_conv_forward_cpu(const DenseConv& call) {
  by_type(call.type, [&]<class T>() { run_as<Wide<T>, T>(call); });
}

}  // namespace lightsr
