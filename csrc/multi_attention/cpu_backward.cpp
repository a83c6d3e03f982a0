// The gradients of multi_attention on the CPU, for every type.
//
// Bound: multiply-adds. For each number of a part 2 C_k + out_channels, twice that and four times C_k more with the
// last pass; the bytes of grad and the parts three times, those of the parts' gradients once.
#include "../common/by_type.h"
#include "cpu_gradients.h"

namespace lightsr {
namespace {

template <template <class> class Pass>
void run(const MultiAttentionBackward& back) {
  by_type(back.call.type, [&]<class T>() { Pass<T>(back).run(); });
}

}  // namespace

void multi_attention_products_cpu(const MultiAttentionBackward& back) {
  run<multi::Products>(back);
}

void multi_attention_logits_cpu(const MultiAttentionBackward& back) {
  run<multi::Logits>(back);
}

void multi_attention_pixels_cpu(const MultiAttentionBackward& back) {
  run<multi::PixelGradients>(back);
}

}  // namespace lightsr
