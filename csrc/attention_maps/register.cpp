// The compiled kernel of attention_maps as a raw operator of torch; its schema stands in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

void forward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor query_key_weight, Tensor position, int64_t window,
             bool grid, double eps, Tensor maps) {
  bool last = layout_of(x);
  int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(window > 0 && h % window == 0 && w % window == 0, "attention_maps: no windows of ", window);
  int64_t tokens = window * window, side = 2 * window - 1;
  const void* results = parameter(maps, x, n * (h / window) * (w / window) * tokens * tokens, "maps");
  AttentionMaps call{.type = type_of(x),
                     .channels_last = last,
                     .n = n,
                     .c = c,
                     .h = h,
                     .w = w,
                     .window = window,
                     .grid = grid,
                     .eps = eps,
                     .x = x.const_data_ptr(),
                     .norm_weight = parameter(norm_weight, x, c, "norm_weight"),
                     .norm_bias = parameter(norm_bias, x, c, "norm_bias"),
                     .query_key_weight = parameter(query_key_weight, x, 2 * c * c, "query_key_weight"),
                     .position = parameter(position, x, side * side, "position_table"),
                     .maps = const_cast<void*>(results)};
  if (x.numel() != 0) attention_maps_cpu(call);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("attention_maps_forward", TORCH_BOX(&lightsr::forward));
}
