// The compiled kernels of window_attention as raw operators of torch; their schemas stand in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

int64_t numbers_of_maps(const Tensor& x, int64_t window) {
  return x.size(0) * (x.size(2) / window) * (x.size(3) / window) * window * window * window * window;
}

WindowAttention call_of(const Tensor& x, const Tensor& maps, const Tensor& norm_weight, const Tensor& norm_bias,
                        const Tensor& value_weight, const Tensor& out_weight, int64_t window, bool grid, double eps) {
  const bool last = layout_of(x);
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(window > 0 && h % window == 0 && w % window == 0, "window_attention: no windows of ", window);
  return {.type = type_of(x),
          .channels_last = last,
          .n = x.size(0),
          .c = c,
          .h = h,
          .w = w,
          .window = window,
          .grid = grid,
          .eps = eps,
          .x = x.const_data_ptr(),
          .maps = parameter(maps, x, numbers_of_maps(x, window), "maps"),
          .norm_weight = parameter(norm_weight, x, c, "norm_weight"),
          .norm_bias = parameter(norm_bias, x, c, "norm_bias"),
          .value_weight = parameter(value_weight, x, c * c, "value_weight"),
          .out_weight = parameter(out_weight, x, c * c, "out_weight"),
          .out = nullptr};
}

void forward(Tensor x, Tensor maps, Tensor norm_weight, Tensor norm_bias, Tensor value_weight, Tensor out_weight,
             int64_t window, bool grid, double eps, Tensor out) {
  WindowAttention call = call_of(x, maps, norm_weight, norm_bias, value_weight, out_weight, window, grid, eps);
  call.out = dense_picture(out, x, call.c, call.channels_last, "out");
  if (x.numel() != 0) window_attention_cpu(call);
}

void backward(Tensor x, Tensor maps, Tensor norm_weight, Tensor norm_bias, Tensor value_weight, Tensor out_weight,
              int64_t window, bool grid, double eps, Tensor grad, MaybeTensor grad_x, MaybeTensor grad_maps,
              MaybeTensor grad_norm_weight, MaybeTensor grad_norm_bias, MaybeTensor grad_value_weight,
              MaybeTensor grad_out_weight) {
  const WindowAttention call = call_of(x, maps, norm_weight, norm_bias, value_weight, out_weight, window, grid, eps);
  const int64_t c = call.c;
  window_attention_backward_cpu({.call = call,
                                 .grad = dense_picture(grad, x, c, call.channels_last, "grad"),
                                 .grad_x = dense_picture(grad_x, x, c, call.channels_last, "grad_x"),
                                 .grad_maps = result(grad_maps, x, numbers_of_maps(x, window), "grad_maps"),
                                 .grad_norm_weight = result(grad_norm_weight, x, c, "grad_norm_weight"),
                                 .grad_norm_bias = result(grad_norm_bias, x, c, "grad_norm_bias"),
                                 .grad_value_weight = result(grad_value_weight, x, c * c, "grad_value_weight"),
                                 .grad_out_weight = result(grad_out_weight, x, c * c, "grad_out_weight")});
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("window_attention_forward", TORCH_BOX(&lightsr::forward));
  m.impl("window_attention_gradients", TORCH_BOX(&lightsr::backward));
}
