// One call of the kernels of attended_conv: plain pointers and sizes.
#pragma once

#include "../common/types.h"

namespace lightsr {

// scale      = sigmoid(up relu(down mean + down_bias) + up_bias)
// out_weight = scale weight, out_bias = scale bias, where mean is that of conv(x, weight) + bias over all pixels.
struct AttendedFilters {
  Type type;           // of every tensor, float32 or float64
  bool channels_last;  // the layout of x: dense [H, W, C], else dense [C, H, W]
  int64_t c, h, w;     // of one picture; h and w not 0
  int64_t outs;        // C_out
  int64_t kh, kw;      // odd
  int64_t hidden;
  const void* x;
  const void *weight, *bias;            // [C_out, C, KH, KW] and [C_out] or null
  const void *down_weight, *down_bias;  // [hidden, C_out] and [hidden] or null
  const void *up_weight, *up_bias;      // [C_out, hidden] and [C_out] or null
  void *out_weight, *out_bias;          // as weight and bias
};

// cpu.cpp
void attended_filters_cpu(const AttendedFilters&);

}  // namespace lightsr
