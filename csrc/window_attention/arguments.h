// One call of the window_attention kernels: plain pointers and sizes.
#pragma once

#include "../common/types.h"

namespace lightsr {

// out = x + maps (n value_weight^T) out_weight^T set by set, with n the layer norm over the channels of each pixel.
struct WindowAttention {
  Type type;           // of every tensor
  bool channels_last;  // the layout of x and out
  int64_t n, c, h, w;  // none of them 0; h and w multiples of window
  int64_t window;
  bool grid;
  double eps;
  const void* x;
  const void* maps;                       // [n sets, window^2, window^2]
  const void *norm_weight, *norm_bias;    // [c]
  const void *value_weight, *out_weight;  // [c, c]
  void* out;
};

// Gradients of parameters are sums over all pixels, in a fixed order.
struct WindowAttentionBackward {
  WindowAttention call;     // without its result; n may be 0
  const void* grad;         // of the result, in the layout of x
  void* grad_x;             // in the layout of x, or null: not wanted; so for all that follow
  void* grad_maps;          // [n sets, window^2, window^2]
  void* grad_norm_weight;   // [c]
  void* grad_norm_bias;     // [c]
  void* grad_value_weight;  // [c, c]
  void* grad_out_weight;    // [c, c]
};

// cpu.cpp
void window_attention_cpu(const WindowAttention&);

// cpu_backward.cpp
void window_attention_backward_cpu(const WindowAttentionBackward&);

}  // namespace lightsr
