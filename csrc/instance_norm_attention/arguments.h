// The passes that instance_norm_attention is made of, for the CPU and for CUDA: plain pointers and sizes.
// instance_norm, channel_attention and spatial_attention are special cases and take the same passes.
//
//   moments        mean and variance of every plane                                  reads x
//   factors        a scale and a shift for every plane, from these                   [N, C] numbers only
//   channel_pool   mean and maximum over the channels of y                           reads x
//   gated_affine   out = y sigmoid(conv(pooled)) + x                                 reads x, writes out
//
// with y = scale (x - centre) + shift. The centre is taken off before anything is multiplied: with a mean of 1e4 and a
// deviation of 1, scale x - scale mean would lose the digits that count. "Wide" is float64 for float64, else float32;
// `type` is that of pictures and parameters.
#pragma once

#include "../common/types.h"

namespace lightsr {

struct Moments {
  Type type;
  bool channels_last;  // of x: dense [N, H, W, C], else dense [N, C, H, W]
  int64_t n, c, h, w;  // none of them 0
  const void* x;
  double* mean;      // [N, C]
  double* variance;  // [N, C], over the number of pixels; on the CPU null where nobody wants it
  void* workspace;   // CUDA: as many bytes as moments_workspace says
};

enum class Statistic : int { mean, mean_and_deviation };  // what the channel gate reads: mean, or mean + deviation

// gate  = sigmoid(up_weight relu(down_weight statistic + down_bias) + up_bias), or 1 where there is no down_weight
// scale = gate norm_weight / sqrt(variance + eps), or gate where there is no norm
// shift = gate norm_bias - scale (mean - centre), or 0; centre = the wide number next to the mean, or 0
struct Factors {
  Type type;
  int64_t n, c, hidden;
  bool norm;
  Statistic statistic;
  double eps;
  const double *mean, *variance;        // [N, C]
  const void *norm_weight, *norm_bias;  // [C] or null: 1 and 0
  const void *down_weight, *down_bias;  // [hidden, C] and [hidden], or null; a bias alone may be null
  const void *up_weight, *up_bias;      // [C, hidden] and [C], or null
  void *centre, *scale, *shift;         // wide [N, C], written
};

struct ChannelPool {
  Type type;
  bool channels_last;
  int64_t n, c, h, w;
  const void* x;
  const void *centre, *scale, *shift;  // wide [N, C]; all null: y = x
  void* pooled;                        // wide [N, 2, H, W]: mean and maximum over channels; NaN where one is NaN
};

struct GatedAffine {
  Type type;
  bool channels_last;
  int64_t n, c, h, w;
  const void* x;
  const void *centre, *scale, *shift;  // wide [N, C]; centre and shift null: y = scale x; all null: y = x
  const void* pooled;                  // wide [N, 2, H, W], or null: no gate
  const void* spatial_weight;          // [2, K, K]
  int k;                               // odd
  void* gate;                          // wide [N, H, W], written where pooled is given
  bool residual;                       // adds x
  void* out;                           // laid out as x
};

// Backward takes the same arguments through three passes:
//
//   gate_gradient    grad_logit = gate (1 - gate) sum_c grad y, share = 1 / (channels whose y is the pooled maximum)
//   affine_sums      sums of dy and of dy (x - centre) over every plane
//   affine_gradient  grad_x = dy scale + constant + slope (x - centre), + grad where there is a residual
//
// with dy = grad gate + grad_pooled[0] / C + (y == pooled[1] ? grad_pooled[1] share : 0); without a gate dy = grad. y
// must come out to the bit as in channel_pool, by the same fused multiply-add.
struct AffineBackward {
  Type type;
  bool channels_last;
  int64_t n, c, h, w;
  const void* grad;  // laid out as x
  const void* x;
  const void *centre, *scale, *shift;  // as in GatedAffine
  const void* gate;                    // wide [N, H, W] or null: no gate; and then the four below are null too
  const void* pooled;                  // wide [N, 2, H, W]
  const void* grad_pooled;             // wide [N, 2, H, W]; not read by gate_gradient
  void* grad_logit;                    // wide [N, H, W], written by gate_gradient
  void* share;                         // wide [N, H, W], written by gate_gradient
  bool residual;
  const void *constant, *slope;  // wide [N, C], or null: 0; for affine_gradient
  double* sums;                  // [2, N, C], written by affine_sums
  void* grad_x;                  // laid out as x, written by affine_gradient
  void* workspace;               // CUDA: as many bytes as affine_sums_workspace says
};

// cpu*.cpp
void moments_cpu(const Moments&);
void factors_cpu(const Factors&);
void channel_pool_cpu(const ChannelPool&);
void gated_affine_cpu(const GatedAffine&);
void gate_gradient_cpu(const AffineBackward&);
void affine_sums_cpu(const AffineBackward&);
void affine_gradient_cpu(const AffineBackward&);

// cuda.cu; 0 or the number of a cudaError_t
int64_t moments_workspace(const Moments&);  // bytes
int64_t affine_sums_workspace(const AffineBackward&);
int moments_cuda(const Moments&, void* stream);
int factors_cuda(const Factors&, void* stream);
int channel_pool_cuda(const ChannelPool&, void* stream);
int gated_affine_cuda(const GatedAffine&, void* stream);
int gate_gradient_cuda(const AffineBackward&, void* stream);
int affine_sums_cuda(const AffineBackward&, void* stream);
int affine_gradient_cuda(const AffineBackward&, void* stream);

}  // namespace lightsr
