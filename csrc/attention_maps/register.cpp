// The compiled kernels of attention_maps as raw operators of torch; their schemas stand in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

int64_t numbers_of_maps(const Tensor& x, int64_t window) {
  return x.size(0) * (x.size(2) / window) * (x.size(3) / window) * window * window * window * window;
}

AttentionMaps call_of(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias,
                      const Tensor& query_key_weight, const Tensor& position, int64_t window, bool grid, double eps) {
  const bool last = layout_of(x);
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3), side = 2 * window - 1;
  STD_TORCH_CHECK(window > 0 && h % window == 0 && w % window == 0, "attention_maps: no windows of ", window);
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
          .norm_weight = parameter(norm_weight, x, c, "norm_weight"),
          .norm_bias = parameter(norm_bias, x, c, "norm_bias"),
          .query_key_weight = parameter(query_key_weight, x, 2 * c * c, "query_key_weight"),
          .position = parameter(position, x, side * side, "position_table"),
          .maps = nullptr};
}

void forward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor query_key_weight, Tensor position, int64_t window,
             bool grid, double eps, Tensor maps) {
  AttentionMaps call = call_of(x, norm_weight, norm_bias, query_key_weight, position, window, grid, eps);
  call.maps = const_cast<void*>(parameter(maps, x, numbers_of_maps(x, window), "maps"));
  if (x.numel() != 0) attention_maps_cpu(call);
}

void backward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor query_key_weight, Tensor position, int64_t window,
              bool grid, double eps, Tensor maps, Tensor grad, MaybeTensor grad_x, MaybeTensor grad_norm_weight,
              MaybeTensor grad_norm_bias, MaybeTensor grad_query_key_weight, MaybeTensor grad_position) {
  const AttentionMaps call = call_of(x, norm_weight, norm_bias, query_key_weight, position, window, grid, eps);
  const int64_t c = call.c, side = 2 * window - 1, numbers = numbers_of_maps(x, window);
  attention_maps_backward_cpu(
      {.call = call,
       .maps = parameter(maps, x, numbers, "maps"),
       .grad = parameter(grad, x, numbers, "grad"),
       .grad_x = dense_picture(grad_x, x, c, call.channels_last, "grad_x"),
       .grad_norm_weight = result(grad_norm_weight, x, c, "grad_norm_weight"),
       .grad_norm_bias = result(grad_norm_bias, x, c, "grad_norm_bias"),
       .grad_query_key_weight = result(grad_query_key_weight, x, 2 * c * c, "grad_query_key_weight"),
       .grad_position = result(grad_position, x, side * side, "grad_position")});
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("attention_maps_forward", TORCH_BOX(&lightsr::forward));
  m.impl("attention_maps_gradients", TORCH_BOX(&lightsr::backward));
}
