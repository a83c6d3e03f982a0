// The compiled kernels of attended_conv as raw operators of torch; their schemas stand in native.py.
#include "../common/tensors.h"
#include "arguments.h"

namespace lightsr {
namespace {

void filters(Tensor x, Tensor weight, MaybeTensor bias, Tensor down_weight, MaybeTensor down_bias, Tensor up_weight,
             MaybeTensor up_bias, Tensor out_weight, MaybeTensor out_bias) {
  const bool last = layout_of(x);
  STD_TORCH_CHECK(type_of(x) == Type::float32 || type_of(x) == Type::float64,
                  "attended_conv: x must be float32 or float64");
  STD_TORCH_CHECK(out_bias.has_value() == bias.has_value(), "attended_conv: out_bias must be there where bias is");
  STD_TORCH_CHECK(x.size(0) == 1 && x.size(2) > 0 && x.size(3) > 0, "attended_conv: x must be one picture");
  STD_TORCH_CHECK(weight.dim() == 4 && down_weight.dim() == 4, "attended_conv: filters must have 4 dimensions");
  const int64_t c = x.size(1), outs = weight.size(0), kh = weight.size(2), kw = weight.size(3);
  const int64_t hidden = down_weight.size(0), count = outs * c * kh * kw;
  STD_TORCH_CHECK(kh % 2 == 1 && kw % 2 == 1, "attended_conv: weight must be odd a side, got ", kh, " x ", kw);
  attended_filters_cpu({.type = type_of(x),
                        .channels_last = last,
                        .c = c,
                        .h = x.size(2),
                        .w = x.size(3),
                        .outs = outs,
                        .kh = kh,
                        .kw = kw,
                        .hidden = hidden,
                        .x = x.const_data_ptr(),
                        .weight = parameter(weight, x, count, "weight"),
                        .bias = parameter(bias, x, outs, "bias"),
                        .down_weight = parameter(down_weight, x, hidden * outs, "down_weight"),
                        .down_bias = parameter(down_bias, x, hidden, "down_bias"),
                        .up_weight = parameter(up_weight, x, outs * hidden, "up_weight"),
                        .up_bias = parameter(up_bias, x, outs, "up_bias"),
                        .out_weight = const_cast<void*>(parameter(out_weight, x, count, "out_weight")),
                        .out_bias = const_cast<void*>(parameter(out_bias, x, outs, "out_bias"))});
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("attended_conv_filters", TORCH_BOX(&lightsr::filters));
}
