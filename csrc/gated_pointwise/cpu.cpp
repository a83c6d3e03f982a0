// gated_pointwise on the CPU: its passes over pixels, in blocks whose buffers stay in the L2 cache.
//
// Bound of a pixel at C = 52, E = 156, P = 16: 36 thousand multiply-adds, against 2 C numbers through memory: it is
// the products' speed that counts (common/product.h). Of two thirds of them joint products save a third
// (common/joint_product.h). A tensor of E channels exists only for a block.
#include "../common/by_type.h"
#include "cpu_coarse.h"
#include "cpu_forward.h"
#include "cpu_joint.h"

namespace lightsr {

void gated_pointwise_entry_cpu(const GatedPointwiseEntry& pass) {
  by_type(pass.call.type, [&]<class T>() { gated::enter<T>(pass); });
}

void gated_pointwise_coarse_cpu(const GatedPointwiseCoarse& pass) {
  by_type(pass.call.type, [&]<class T>() {
    using S = Wide<T>;
    const gated::Coarse<T> coarse(pass.call);
    coarse.stride(static_cast<const S*>(pass.entered));
    coarse.pool(nullptr);
    coarse.mix(static_cast<S*>(pass.coarse));
  });
}

void gated_pointwise_exit_cpu(const GatedPointwiseExit& pass) {
  if (pass.call.type == Type::float32 && joint_products()) {
    const gated::Scaled scaled(pass.call);
    if (scaled.fits()) return gated::Exit<float, gated::JointStar>(pass, scaled).run();
  }
  by_type(pass.call.type, [&]<class T>() { gated::Exit<T>(pass).run(); });
}

}  // namespace lightsr
