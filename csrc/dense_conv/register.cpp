// The compiled kernels of dense_conv as raw operators of torch; their schemas stand in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

void forward(Tensor x, Tensor weight, MaybeTensor bias, int64_t activation, double negative_slope, MaybeTensor residual,
             int64_t pixel_shuffle, bool transpose, bool winograd, Tensor out) {
  const bool last = layout_of(x);
  STD_TORCH_CHECK(weight.dim() == 4, "dense_conv: weight must have 4 dimensions");
  const int64_t c = x.size(1), outs = weight.size(transpose ? 1 : 0), kh = weight.size(2), kw = weight.size(3);
  const int64_t r = pixel_shuffle;
  STD_TORCH_CHECK(kh % 2 == 1 && kw % 2 == 1 && kh >= 1 && kw >= 1 && kh <= 7 && kw <= 7,
                  "dense_conv: weight must be odd from 1 to 7 a side, got ", kh, " x ", kw);
  STD_TORCH_CHECK(activation >= 0 && activation <= int64_t(Activation::sigmoid), "dense_conv: no such activation");
  STD_TORCH_CHECK(r >= 1 && outs % (r * r) == 0, "dense_conv: pixel_shuffle does not divide ", outs, " channels");
  check_like(out, x, "out");
  STD_TORCH_CHECK(out.dim() == 4 && out.size(0) == x.size(0) && out.size(1) * r * r == outs &&
                      out.size(2) == x.size(2) * r && out.size(3) == x.size(3) * r &&
                      (last ? is_channels_last(out) : out.is_contiguous()),
                  "dense_conv: out must have the shape of the result and the layout of x");
  DenseConv call{.type = type_of(x),
                 .channels_last = last,
                 .transpose = transpose,
                 .winograd = winograd,
                 .n = x.size(0),
                 .c = c,
                 .h = x.size(2),
                 .w = x.size(3),
                 .outs = outs,
                 .kh = int(kh),
                 .kw = int(kw),
                 .activation = Activation(activation),
                 .negative_slope = negative_slope,
                 .shuffle = r,
                 .x = x.const_data_ptr(),
                 .weight = parameter(weight, x, c * outs * kh * kw, "weight"),
                 .bias = parameter(bias, x, outs, "bias"),
                 .residual = dense_picture(residual, x, outs, last, "residual"),
                 .out = const_cast<void*>(out.const_data_ptr())};
  if (out.numel() > 0) dense_conv_forward_cpu(call);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("dense_conv_forward", TORCH_BOX(&lightsr::forward));
}
