// multi_attention on the CPU, forward, for every type.
//
// Floor: the parts read twice, as the means over a picture need every pixel before the first result, the residual read
// and the result written; 2 C_k multiply-adds for each of their numbers and out_channels more.
#include <memory>

#include "../common/by_type.h"
#include "cpu_forward.h"
#include "cpu_gate.h"

namespace lightsr {
namespace {

template <class T>
void forward(const MultiAttention& call) {
  const auto lit = multi::all_lit<T>(call);
  multi::Gates<T>(call, lit).run();
  multi::make_scales<Wide<T>>(call);
  if (!call.out) return;
  multi::Fused<T>(call, lit).run();
}

}  // namespace

void multi_attention_forward_cpu(const MultiAttention& call) {
  by_type(call.type, [&]<class T>() { forward<T>(call); });
}

}  // namespace lightsr
