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

// cpu.cpp
void attention_maps_cpu(const AttentionMaps&);

}  // namespace lightsr
