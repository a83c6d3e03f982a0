// The compiled kernel of window_attention as a raw operator of torch; its schema stands in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

void forward(Tensor x, Tensor maps, Tensor norm_weight, Tensor norm_bias, Tensor value_weight, Tensor out_weight,
             int64_t window, bool grid, double eps, Tensor out) {
  bool last = layout_of(x);
  int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(window > 0 && h % window == 0 && w % window == 0, "window_attention: no windows of ", window);
  int64_t tokens = window * window;
  WindowAttention call{.type = type_of(x),
                       .channels_last = last,
                       .n = n,
                       .c = c,
                       .h = h,
                       .w = w,
                       .window = window,
                       .grid = grid,
                       .eps = eps,
                       .x = x.const_data_ptr(),
                       .maps = parameter(maps, x, n * (h / window) * (w / window) * tokens * tokens, "maps"),
                       .norm_weight = parameter(norm_weight, x, c, "norm_weight"),
                       .norm_bias = parameter(norm_bias, x, c, "norm_bias"),
                       .value_weight = parameter(value_weight, x, c * c, "value_weight"),
                       .out_weight = parameter(out_weight, x, c * c, "out_weight"),
                       .out = dense_picture(out, x, c, last, "out")};
  if (x.numel() != 0) window_attention_cpu(call);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("window_attention_forward", TORCH_BOX(&lightsr::forward));
}
