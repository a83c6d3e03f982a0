// The compiled passes of gated_pointwise as raw operators of torch; their schemas stand in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

GatedPointwise call_of(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, double eps,
                       int64_t expanded, int64_t gate) {
  bool last = layout_of(x);
  int64_t c = x.size(1);
  return {.type = type_of(x),
          .channels_last = last,
          .n = x.size(0),
          .c = c,
          .h = x.size(2),
          .w = x.size(3),
          .expanded = expanded,
          .gate = gate,
          .eps = eps,
          .x = x.const_data_ptr(),
          .norm_weight = parameter(norm_weight, x, c, "norm_weight"),
          .norm_bias = parameter(norm_bias, x, c, "norm_bias")};
}

void entry(Tensor x, Tensor norm_weight, Tensor norm_bias, double eps, Tensor weight, Tensor bias, Tensor entered) {
  int64_t gate = bias.size(0);
  GatedPointwise call = call_of(x, norm_weight, norm_bias, eps, 0, gate);
  GatedPointwiseEntry pass{.call = call,
                           .weight = parameter(weight, x, gate * call.c, "weight"),
                           .bias = parameter(bias, x, gate, "bias"),
                           .entered = dense_picture(entered, x, gate, call.channels_last, "entered")};
  if (x.numel() != 0) gated_pointwise_entry_cpu(pass);
}

int64_t pooled(int64_t length) {
  return ((length - 3) / 2 + 1 - 7) / 3 + 1;
}

// A map [N, coarse H, coarse W, P] in float32, or float64 for float64.
void* map_of(const Tensor& coarse, const Tensor& x, int64_t gate) {
  ScalarType wide = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(coarse.scalar_type() == wide && coarse.dim() == 4 && coarse.is_contiguous() && !coarse.is_cuda() &&
                      coarse.size(0) == x.size(0) && coarse.size(1) == pooled(x.size(2)) &&
                      coarse.size(2) == pooled(x.size(3)) && coarse.size(3) == gate,
                  "gated_pointwise: coarse must be wide and contiguous, [N, coarse H, coarse W, P]");
  return const_cast<void*>(coarse.const_data_ptr());
}

void coarsen(Tensor entered, Tensor stride_weight, Tensor stride_bias, Tensor pool_weight, Tensor pool_bias,
             Tensor coarse) {
  int64_t p = entered.size(1);
  GatedPointwiseCoarse pass{.call = {.type = type_of(entered),
                                     .channels_last = layout_of(entered),
                                     .n = entered.size(0),
                                     .c = p,
                                     .h = entered.size(2),
                                     .w = entered.size(3),
                                     .expanded = 0,
                                     .gate = p,
                                     .eps = 0,
                                     .x = nullptr,
                                     .norm_weight = nullptr,
                                     .norm_bias = nullptr},
                            .entered = entered.const_data_ptr(),
                            .stride_weight = parameter(stride_weight, entered, p * p * 9, "stride_weight"),
                            .stride_bias = parameter(stride_bias, entered, p, "stride_bias"),
                            .pool_weight = parameter(pool_weight, entered, p * p * 9, "pool_weight"),
                            .pool_bias = parameter(pool_bias, entered, p, "pool_bias"),
                            .coarse = map_of(coarse, entered, p)};
  if (entered.numel() != 0) gated_pointwise_coarse_cpu(pass);
}

void leave(Tensor x, Tensor norm_weight, Tensor norm_bias, double eps, Tensor entered, Tensor coarse, Tensor weight_a,
           Tensor bias_a, Tensor weight_b, Tensor bias_b, Tensor weight_c, Tensor bias_c, Tensor skip_weight,
           Tensor skip_bias, Tensor exit_weight, Tensor exit_bias, Tensor out_weight, Tensor out_bias, Tensor out) {
  int64_t c = x.size(1), e = bias_a.size(0), p = skip_bias.size(0);
  GatedPointwise call = call_of(x, norm_weight, norm_bias, eps, e, p);
  GatedPointwiseExit pass{.call = call,
                          .entered = dense_picture(entered, x, p, call.channels_last, "entered"),
                          .coarse_h = coarse.size(1),
                          .coarse_w = coarse.size(2),
                          .coarse = map_of(coarse, x, p),
                          .weight_a = parameter(weight_a, x, e * c, "weight_a"),
                          .bias_a = parameter(bias_a, x, e, "bias_a"),
                          .weight_b = parameter(weight_b, x, e * c, "weight_b"),
                          .bias_b = parameter(bias_b, x, e, "bias_b"),
                          .weight_c = parameter(weight_c, x, e * c, "weight_c"),
                          .bias_c = parameter(bias_c, x, e, "bias_c"),
                          .skip_weight = parameter(skip_weight, x, p * p, "skip_weight"),
                          .skip_bias = parameter(skip_bias, x, p, "skip_bias"),
                          .exit_weight = parameter(exit_weight, x, e * p, "exit_weight"),
                          .exit_bias = parameter(exit_bias, x, e, "exit_bias"),
                          .out_weight = parameter(out_weight, x, c * e, "out_weight"),
                          .out_bias = parameter(out_bias, x, c, "out_bias"),
                          .out = dense_picture(out, x, c, call.channels_last, "out")};
  if (x.numel() != 0) gated_pointwise_exit_cpu(pass);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("gated_pointwise_entry", TORCH_BOX(&lightsr::entry));
  m.impl("gated_pointwise_coarse", TORCH_BOX(&lightsr::coarsen));
  m.impl("gated_pointwise_exit", TORCH_BOX(&lightsr::leave));
}
