// gated_pointwise on the CPU: its passes over pixels, in blocks whose buffers stay in the L2 cache.
//
// Bound of a pixel at C = 52, E = 156, P = 16: 36 thousand multiply-adds, against 2 C numbers through memory: it is
// the products' speed that counts (common/product.h). A tensor of E channels exists only for a block.
#include "cpu_coarse.h"
#include "cpu_forward.h"
#include "cpu_types.h"

namespace lightsr {

void gated_pointwise_entry_cpu(const GatedPointwiseEntry& pass) {
  gated::for_type(pass.call, [&](auto number) { gated::enter<decltype(number)>(pass); });
}

void gated_pointwise_coarse_cpu(const GatedPointwiseCoarse& pass) {
  gated::for_type(pass.call, [&](auto number) {
    using S = typename Numbers<decltype(number)>::Wide;
    const gated::Coarse<decltype(number)> coarse(pass.call);
    coarse.stride(static_cast<const S*>(pass.entered));
    coarse.pool(nullptr);
    coarse.mix(static_cast<S*>(pass.coarse));
  });
}

void gated_pointwise_exit_cpu(const GatedPointwiseExit& pass) {
  gated::for_type(pass.call, [&](auto number) { gated::Exit<decltype(number)>(pass).run(); });
}

}  // namespace lightsr
