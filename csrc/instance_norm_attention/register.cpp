// The passes of instance_norm_attention as raw operators of torch; their schemas stand in native.py. This file becomes
// the CPU library's, and with LIGHTSR_CUDA the CUDA library's (register_cuda.cpp).
#include <algorithm>
#include <vector>

#include "../common/tensors.h"
#include "arguments.h"
#ifndef LIGHTSR_CUDA
#include "cpu_calls.h"
#endif

namespace lightsr {
namespace {

#ifdef LIGHTSR_CUDA
#define LIGHTSR_RUN(pass, x)                                        \
  torch::stable::accelerator::DeviceGuard device((x).get_device()); \
  check_launch(pass##_cuda(call, current_stream(x)), "instance_norm_attention, " #pass)
#else
#define LIGHTSR_RUN(pass, x) pass##_cpu(call)
#endif

// Numbers of each plane or pixel: contiguous, on the device of x, in float64 or in the wide type of x.
const void* numbers(const Tensor& each, const Tensor& x, int64_t count, bool always_double, const char* name) {
  bool as_double = always_double || x.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(each.scalar_type() == (as_double ? ScalarType::Double : ScalarType::Float) &&
                      each.get_device() == x.get_device() && each.is_cuda() == x.is_cuda(),
                  name, " must be float", as_double ? "64" : "32", " on the device of x");
  STD_TORCH_CHECK(each.numel() == count && each.is_contiguous(), name, " must be contiguous with ", count, " numbers");
  return each.const_data_ptr();
}

const void* numbers(const MaybeTensor& each, const Tensor& x, int64_t count, const char* name) {
  return each ? numbers(*each, x, count, false, name) : nullptr;
}

void* written(const Tensor& each, const Tensor& x, int64_t count, const char* name) {
  return const_cast<void*>(numbers(each, x, count, false, name));
}

void moments(Tensor x, Tensor found) {
  int64_t planes = x.size(0) * x.size(1);
  double* numbers_found = static_cast<double*>(const_cast<void*>(numbers(found, x, 2 * planes, true, "moments")));
  Moments call{.type = type_of(x),
               .channels_last = layout_of(x),
               .n = x.size(0),
               .c = x.size(1),
               .h = x.size(2),
               .w = x.size(3),
               .x = x.const_data_ptr(),
               .mean = numbers_found,
               .variance = numbers_found + planes,
               .workspace = nullptr};
  if (x.numel() == 0) return;
#ifdef LIGHTSR_CUDA
  int64_t doubles = (moments_workspace(call) + 7) / 8;
  Tensor workspace = torch::stable::new_empty(x, {doubles}, ScalarType::Double);
  call.workspace = doubles ? workspace.mutable_data_ptr() : nullptr;
#endif
  LIGHTSR_RUN(moments, x);
}

// mean and variance: float64 [N, C]; found: wide [3, N, C], which is what `x` is computed in.
Factors factors_call(const void* mean, const void* variance, const Tensor& x, int64_t n, int64_t c, void* found,
                     const MaybeTensor& norm_weight, const MaybeTensor& norm_bias, const MaybeTensor& down_weight,
                     const MaybeTensor& down_bias, const MaybeTensor& up_weight, const MaybeTensor& up_bias, double eps,
                     bool deviation, bool norm) {
  int64_t hidden = down_weight ? down_weight->size(0) : 0;
  STD_TORCH_CHECK(down_weight.has_value() == up_weight.has_value(), "down_weight and up_weight go together");
  const Tensor& like = down_weight ? *down_weight : norm_bias ? *norm_bias : norm_weight ? *norm_weight : x;
  const bool as_double = x.scalar_type() == ScalarType::Double;
  char* wide = static_cast<char*>(found);
  int64_t bytes = n * c * (as_double ? 8 : 4);
  STD_TORCH_CHECK((like.scalar_type() == ScalarType::Double) == as_double,
                  "factors must be float64 for float64 parameters, else float32");
  return {.type = type_of(like),
          .n = n,
          .c = c,
          .hidden = hidden,
          .norm = norm,
          .statistic = deviation ? Statistic::mean_and_deviation : Statistic::mean,
          .eps = eps,
          .mean = static_cast<const double*>(mean),
          .variance = static_cast<const double*>(variance),
          .norm_weight = parameter(norm_weight, like, c, "norm_weight"),
          .norm_bias = parameter(norm_bias, like, c, "norm_bias"),
          .down_weight = parameter(down_weight, like, hidden * c, "down_weight"),
          .down_bias = parameter(down_bias, like, hidden, "down_bias"),
          .up_weight = parameter(up_weight, like, c * hidden, "up_weight"),
          .up_bias = parameter(up_bias, like, c, "up_bias"),
          .centre = wide,
          .scale = wide + bytes,
          .shift = wide + 2 * bytes};
}

void factors(Tensor mean, Tensor variance, MaybeTensor norm_weight, MaybeTensor norm_bias, MaybeTensor down_weight,
             MaybeTensor down_bias, MaybeTensor up_weight, MaybeTensor up_bias, double eps, bool deviation, bool norm,
             Tensor found) {
  const int64_t planes = found.numel() / 3;
  void* wide = written(found, found, 3 * planes, "factors");
  Factors call =
      factors_call(numbers(mean, found, planes, true, "mean"), numbers(variance, found, planes, true, "variance"),
                   found, found.size(1), found.size(2), wide, norm_weight, norm_bias, down_weight, down_bias, up_weight,
                   up_bias, eps, deviation, norm);
  if (planes == 0) return;
  LIGHTSR_RUN(factors, found);
}

void channel_pool(Tensor x, MaybeTensor centre, MaybeTensor scale, MaybeTensor shift, Tensor pooled) {
  int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  ChannelPool call{.type = type_of(x),
                   .channels_last = layout_of(x),
                   .n = n,
                   .c = c,
                   .h = h,
                   .w = w,
                   .x = x.const_data_ptr(),
                   .centre = numbers(centre, x, n * c, "centre"),
                   .scale = numbers(scale, x, n * c, "scale"),
                   .shift = numbers(shift, x, n * c, "shift"),
                   .pooled = written(pooled, x, n * 2 * h * w, "pooled")};
  if (x.numel() == 0) return;
  LIGHTSR_RUN(channel_pool, x);
}

void gated_affine(Tensor x, MaybeTensor centre, MaybeTensor scale, MaybeTensor shift, MaybeTensor pooled,
                  MaybeTensor spatial_weight, bool residual, MaybeTensor gate, Tensor out) {
  int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), k = spatial_weight ? spatial_weight->size(3) : 1;
  STD_TORCH_CHECK(pooled.has_value() == spatial_weight.has_value() && pooled.has_value() == gate.has_value(),
                  "pooled, spatial_weight and gate go together");
  STD_TORCH_CHECK(k % 2 == 1, "spatial_weight must be odd a side, got ", k);
  bool last = layout_of(x);
  GatedAffine call{.type = type_of(x),
                   .channels_last = last,
                   .n = n,
                   .c = c,
                   .h = h,
                   .w = w,
                   .x = x.const_data_ptr(),
                   .centre = numbers(centre, x, n * c, "centre"),
                   .scale = numbers(scale, x, n * c, "scale"),
                   .shift = numbers(shift, x, n * c, "shift"),
                   .pooled = numbers(pooled, x, n * 2 * h * w, "pooled"),
                   .spatial_weight = parameter(spatial_weight, x, 2 * k * k, "spatial_weight"),
                   .k = int(k),
                   .gate = const_cast<void*>(numbers(gate, x, n * h * w, "gate")),
                   .residual = residual,
                   .out = const_cast<void*>(picture(out, x, last, "out"))};
  if (x.numel() == 0) return;
  LIGHTSR_RUN(gated_affine, x);
}

#ifndef LIGHTSR_CUDA
void forward(Tensor x, MaybeTensor norm_weight, MaybeTensor norm_bias, MaybeTensor down_weight, MaybeTensor down_bias,
             MaybeTensor up_weight, MaybeTensor up_bias, MaybeTensor spatial_weight, double eps, bool deviation,
             bool norm, bool residual, MaybeTensor found, MaybeTensor pooled, MaybeTensor gate, Tensor out) {
  int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), k = spatial_weight ? spatial_weight->size(3) : 1;
  STD_TORCH_CHECK(k % 2 == 1, "spatial_weight must be odd a side, got ", k);
  bool last = layout_of(x), factors = norm || down_weight;
  std::vector<double> own(factors && !found ? 2 * n * c : 0), affine(size_t(3 * n * c));
  double* numbers_found = own.data();
  if (found)
    numbers_found =
        static_cast<double*>(const_cast<void*>(numbers(*found, x, factors ? 2 * n * c : 0, true, "moments")));
  char* of_planes = reinterpret_cast<char*>(affine.data());
  int64_t bytes = n * c * (x.scalar_type() == ScalarType::Double ? 8 : 4);
  AttentionForward call{};
  // A channel gate that reads the mean needs no variance; what is kept of it for backward is 0.
  double* variance = norm || deviation ? numbers_found + n * c : nullptr;
  if (factors && !variance) std::fill_n(numbers_found + n * c, n * c, 0.0);
  call.moments = {type_of(x), last, n, c, h, w, x.const_data_ptr(), numbers_found, variance, nullptr};
  call.has_factors = factors;
  call.factors = factors_call(numbers_found, numbers_found + n * c, x, n, c, of_planes, norm_weight, norm_bias,
                              down_weight, down_bias, up_weight, up_bias, eps, deviation, norm);
  call.pooled = const_cast<void*>(numbers(pooled, x, n * 2 * h * w, "pooled"));
  call.affine = {.type = type_of(x),
                 .channels_last = last,
                 .n = n,
                 .c = c,
                 .h = h,
                 .w = w,
                 .x = x.const_data_ptr(),
                 .centre = norm ? of_planes : nullptr,
                 .scale = factors ? of_planes + bytes : nullptr,
                 .shift = norm ? of_planes + 2 * bytes : nullptr,
                 .pooled = nullptr,
                 .spatial_weight = parameter(spatial_weight, x, 2 * k * k, "spatial_weight"),
                 .k = int(k),
                 .gate = const_cast<void*>(numbers(gate, x, n * h * w, "gate")),
                 .residual = residual,
                 .out = const_cast<void*>(picture(out, x, last, "out"))};
  if (x.numel() > 0) attention_forward_cpu(call);
}
#endif

AffineBackward backward_call(const Tensor& grad, const Tensor& x, const MaybeTensor& centre, const MaybeTensor& scale,
                             const MaybeTensor& shift, const MaybeTensor& gate, const MaybeTensor& pooled) {
  int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(pooled.has_value() == gate.has_value(), "pooled and gate go together");
  bool last = layout_of(x);
  AffineBackward call{};
  call.type = type_of(x);
  call.channels_last = last;
  call.n = n;
  call.c = c;
  call.h = h;
  call.w = w;
  call.grad = picture(grad, x, last, "grad");
  call.x = x.const_data_ptr();
  call.centre = numbers(centre, x, n * c, "centre");
  call.scale = numbers(scale, x, n * c, "scale");
  call.shift = numbers(shift, x, n * c, "shift");
  call.gate = numbers(gate, x, n * h * w, "gate");
  call.pooled = numbers(pooled, x, n * 2 * h * w, "pooled");
  return call;
}

void add_maps(AffineBackward& call, const Tensor& x, const MaybeTensor& grad_pooled, const MaybeTensor& share) {
  int64_t pixels = call.n * call.h * call.w;
  STD_TORCH_CHECK(grad_pooled.has_value() == share.has_value() && share.has_value() == (call.gate != nullptr),
                  "gate, grad_pooled and share go together");
  call.grad_pooled = numbers(grad_pooled, x, 2 * pixels, "grad_pooled");
  call.share = const_cast<void*>(numbers(share, x, pixels, "share"));
}

void gate_gradient(Tensor grad, Tensor x, MaybeTensor centre, MaybeTensor scale, MaybeTensor shift, MaybeTensor gate,
                   MaybeTensor pooled, Tensor grad_logit, Tensor share) {
  AffineBackward call = backward_call(grad, x, centre, scale, shift, gate, pooled);
  STD_TORCH_CHECK(call.gate != nullptr, "gate must be given");
  call.grad_logit = written(grad_logit, x, call.n * call.h * call.w, "grad_logit");
  call.share = written(share, x, call.n * call.h * call.w, "share");
  if (x.numel() == 0) return;
  LIGHTSR_RUN(gate_gradient, x);
}

void affine_sums(Tensor grad, Tensor x, MaybeTensor centre, MaybeTensor scale, MaybeTensor shift, MaybeTensor gate,
                 MaybeTensor pooled, MaybeTensor grad_pooled, MaybeTensor share, Tensor sums) {
  AffineBackward call = backward_call(grad, x, centre, scale, shift, gate, pooled);
  add_maps(call, x, grad_pooled, share);
  call.sums = static_cast<double*>(const_cast<void*>(numbers(sums, x, 2 * call.n * call.c, true, "sums")));
  if (x.numel() == 0) return;
#ifdef LIGHTSR_CUDA
  int64_t doubles = (affine_sums_workspace(call) + 7) / 8;
  Tensor workspace = torch::stable::new_empty(x, {doubles}, ScalarType::Double);
  call.workspace = doubles ? workspace.mutable_data_ptr() : nullptr;
#endif
  LIGHTSR_RUN(affine_sums, x);
}

void affine_gradient(Tensor grad, Tensor x, MaybeTensor centre, MaybeTensor scale, MaybeTensor shift, MaybeTensor gate,
                     MaybeTensor pooled, MaybeTensor grad_pooled, MaybeTensor share, bool residual,
                     MaybeTensor constant, MaybeTensor slope, Tensor grad_x) {
  AffineBackward call = backward_call(grad, x, centre, scale, shift, gate, pooled);
  add_maps(call, x, grad_pooled, share);
  call.residual = residual;
  call.constant = numbers(constant, x, call.n * call.c, "constant");
  call.slope = numbers(slope, x, call.n * call.c, "slope");
  call.grad_x = const_cast<void*>(picture(grad_x, x, call.channels_last, "grad_x"));
  if (x.numel() == 0) return;
  LIGHTSR_RUN(affine_gradient, x);
}

#ifndef LIGHTSR_CUDA
void gradients(Tensor grad, Tensor x, Tensor moments, MaybeTensor norm_weight, MaybeTensor norm_bias,
               MaybeTensor down_weight, MaybeTensor down_bias, MaybeTensor up_weight, MaybeTensor up_bias, double eps,
               bool deviation, bool norm, bool residual, MaybeTensor gate, MaybeTensor pooled, MaybeTensor grad_pooled,
               MaybeTensor share, MaybeTensor grad_x, MaybeTensor grad_norm_weight, MaybeTensor grad_norm_bias,
               MaybeTensor grad_down_weight, MaybeTensor grad_down_bias, MaybeTensor grad_up_weight,
               MaybeTensor grad_up_bias) {
  STD_TORCH_CHECK(norm || down_weight, "there must be a norm or a channel gate");
  const int64_t n = x.size(0), c = x.size(1);
  std::vector<double> affine(size_t(3 * n * c));
  AttentionBackward call{};
  call.affine = backward_call(grad, x, std::nullopt, std::nullopt, std::nullopt, gate, pooled);
  add_maps(call.affine, x, grad_pooled, share);
  call.affine.residual = residual;
  call.affine.grad_x =
      grad_x ? const_cast<void*>(lightsr::picture(*grad_x, x, call.affine.channels_last, "grad_x")) : nullptr;
  const double* mean = static_cast<const double*>(numbers(moments, x, 2 * n * c, true, "moments"));
  call.factors = factors_call(mean, mean + n * c, x, n, c, affine.data(), norm_weight, norm_bias, down_weight,
                              down_bias, up_weight, up_bias, eps, deviation, norm);
  const auto gradient = [&](const MaybeTensor& each, const MaybeTensor& of, const char* name) {
    STD_TORCH_CHECK(!each || of, name, " has no parameter");
    return each ? const_cast<void*>(parameter(each, *of, of->numel(), name)) : nullptr;
  };
  call.grad_norm_weight = gradient(grad_norm_weight, norm_weight, "grad_norm_weight");
  call.grad_norm_bias = gradient(grad_norm_bias, norm_bias, "grad_norm_bias");
  call.grad_down_weight = gradient(grad_down_weight, down_weight, "grad_down_weight");
  call.grad_down_bias = gradient(grad_down_bias, down_bias, "grad_down_bias");
  call.grad_up_weight = gradient(grad_up_weight, up_weight, "grad_up_weight");
  call.grad_up_bias = gradient(grad_up_bias, up_bias, "grad_up_bias");
  if (x.numel() > 0) attention_backward_cpu(call);
}
#endif

}  // namespace
}  // namespace lightsr

#ifdef LIGHTSR_CUDA
STABLE_TORCH_LIBRARY_IMPL(lightsr, CUDA, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
#endif
#ifndef LIGHTSR_CUDA
  m.impl("instance_norm_attention_forward", TORCH_BOX(&lightsr::forward));
  m.impl("instance_norm_attention_gradients", TORCH_BOX(&lightsr::gradients));
#endif
  m.impl("instance_norm_attention_moments", TORCH_BOX(&lightsr::moments));
  m.impl("instance_norm_attention_factors", TORCH_BOX(&lightsr::factors));
  m.impl("instance_norm_attention_channel_pool", TORCH_BOX(&lightsr::channel_pool));
  m.impl("instance_norm_attention_gated_affine", TORCH_BOX(&lightsr::gated_affine));
  m.impl("instance_norm_attention_gate_gradient", TORCH_BOX(&lightsr::gate_gradient));
  m.impl("instance_norm_attention_affine_sums", TORCH_BOX(&lightsr::affine_sums));
  m.impl("instance_norm_attention_affine_gradient", TORCH_BOX(&lightsr::affine_gradient));
}
