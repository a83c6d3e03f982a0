// One call of the multi_attention kernels: plain pointers and sizes.
#pragma once

#include "../common/slice.h"
#include "../common/types.h"

namespace lightsr {

// z    = x s, s = sigmoid(pixel_weight x + pixel_bias)
// gate = sigmoid(conv(mean and maximum of z over the channels))
// part = scale z gate, scale from the means of z gate over a picture's pixels
struct AttentionBranch {
  int64_t channels, first;  // first: channels of all branches before
  Slice x;
  const void *pixel_weight, *pixel_bias;  // [C, C] and [C]
  const void* spatial_weight;             // [2, side, side]
  int64_t side;                           // odd
  const void *down_weight, *down_bias;    // [hidden, C] and [hidden]
  const void *up_weight, *up_bias;        // [C, hidden] and [C]
  int64_t hidden;
};

// out = out_weight [part_0, part_1, ...] + out_bias + residual, or the parts side by side (+ residual) where out_weight
// is null. "Wide" is float64 for float64, else float32. Means, scales and constants stand branch after branch, each
// [N, C_k].
struct MultiAttention {
  Type type;                          // of everything that is not wide
  bool channels_last;                 // the layout of pictures and results
  int64_t n, h, w, in, out_channels;  // in: channels of all branches together; none of these 0
  int64_t branches;
  const AttentionBranch* branch;
  const void *out_weight, *out_bias;  // [out_channels, in] or null, [out_channels] or null
  Slice residual;                     // or none
  void* pooled;                       // wide [N, 2 branches, H, W]: mean and maximum by turns; or null: not wanted
  void* gates;                        // wide [N, branches, H, W]
  double* means;                      // of z gate
  void* scales;                       // wide
  void* out;                          // dense, or null: not wanted
};

// The gradients, in three passes. With a = z gate and q = out_weight' grad, or grad where there is no out_weight, a has
// the gradient d = scale q + constant; constant is what comes through the means.
struct MultiAttentionBackward {
  MultiAttention call;  // with what forward made, without a result
  const void* grad;     // dense
  // products
  double* products;  // [N, out_channels, in]: sums over pixels of grad a'; or [N, in] of grad a without out_weight
  double* sums;      // [N, out_channels] of grad, or null: not wanted
  // logits and pixels
  const void* constants;  // wide
  void* grad_logits;      // wide [N, branches, H, W]: of what the sigmoid gets
  void* shares;           // wide [N, branches, H, W]: 1 / (channels that are the maximum)
  // pixels
  const void* grad_pooled;            // wide, as pooled
  void* const* grad_x;                // of each branch, dense; or null: not wanted; so for the other two
  double* const* grad_pixel_weights;  // [C, C]
  double* const* grad_pixel_biases;   // [C]
};

// cpu*.cpp
void multi_attention_forward_cpu(const MultiAttention&);
void multi_attention_products_cpu(const MultiAttentionBackward&);
void multi_attention_logits_cpu(const MultiAttentionBackward&);
void multi_attention_pixels_cpu(const MultiAttentionBackward&);

}  // namespace lightsr
