// instance_norm_attention and its relatives on the CPU, forward.
//
// The floor is what has to be moved: x is read for the moments of planes, then for the maps, then for the result, which
// is written; 2 K^2 multiply-adds a pixel for the gate, about 5 operations a number beside it. Reads that come from a
// cache are as good as none: see cpu_forward.h. 16-bit types are widened as they are read and rounded once, at the end.
// How work is cut among threads changes no result.
#include "cpu_forward_all.h"

namespace lightsr {

namespace passes = instance_norm_attention;

void moments_cpu(const Moments& call) {
  passes::run_as<passes::MomentsPass>(call);
}

void factors_cpu(const Factors& call) {
  if (call.type == Type::float64)
    passes::FactorsPass<double>(call).run();
  else
    passes::FactorsPass<float>(call).run();
}

void channel_pool_cpu(const ChannelPool& call) {
  passes::run_as<passes::ChannelPoolPass>(call);
}

void gated_affine_cpu(const GatedAffine& call) {
  passes::run_as<passes::GatedAffinePass>(call);
}

void attention_forward_cpu(const AttentionForward& call) {
  passes::run_as<passes::ForwardPass>(call, call.affine);
}

}  // namespace lightsr
