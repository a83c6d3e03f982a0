// One call of the attention_maps kernels: plain pointers and sizes.
#pragma once

#include "../common/types.h"

namespace lightsr {

// maps = softmax over keys of (n queries^T) (n keys^T)^T / sqrt(c) + position, set by set, with n the layer norm over
// the channels of each pixel.
struct AttentionMaps {
  Type type;           // of every tensor
  bool channels_last;  // the layout of x
  int64_t n, c, h, w;  // none of them 0; h and w multiples of window
  int64_t window;
  bool grid;
  double eps;
  const void* x;
  const void *norm_weight, *norm_bias;  // [c]
  const void* query_key_weight;         // [2 c, c], queries first
  const void* position;                 // [(2 window - 1)^2]: queries' offsets from keys
  void* maps;                           // [n sets, window^2, window^2]
};

// Gradients of parameters are sums over all pixels, in a fixed order.
struct AttentionMapsBackward {
  AttentionMaps call;           // without its result; n may be 0
  const void* maps;             // its result
  const void* grad;             // of the maps
  void* grad_x;                 // in the layout of x, or null: not wanted; so for all that follow
  void* grad_norm_weight;       // [c]
  void* grad_norm_bias;         // [c]
  void* grad_query_key_weight;  // [2 c, c]
  void* grad_position;          // [(2 window - 1)^2]
};

// cpu.cpp
void attention_maps_cpu(const AttentionMaps&);

// cpu_backward.cpp
void attention_maps_backward_cpu(const AttentionMapsBackward&);

}  // namespace lightsr
