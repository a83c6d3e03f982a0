// sigmoid and gelu of float32 by what AVX-512 has for it: powers of two, and tables in a register.
#pragma once

#include <immintrin.h>

#include "simd_math_everywhere.h"

namespace lightsr {

// As off as everywhere::sigmoid. e^-x = 2^y is 2^floor(y) 2^f with f = y - floor(y), and 2^f a polynomial fitted to
// 2e-9: half the steps of exp. Infinities and NaN come out right.
inline Vec<float> sigmoid(Vec<float> x) {
  using F = Vec<float>;
  const auto number = [](float value) { return F::fill(value); };
  constexpr int down = 1;
  constexpr float terms[] = {0x1.461956p-10f, 0x1.3d28p-7f, 0x1.c685p-5f, 0x1.ebfd9ep-3f, 0x1.62e42ap-1f, 1};
  const F one = number(1), y = x * number(-1.44269504f), f{_mm512_reduce_ps(y.v, down)};
  F power = number(0x1.c72118p-13f);
  for (float term : terms) power = fma(power, f, number(term));
  return one / (one + F{_mm512_scalef_ps(power.v, y.v)});
}

// P(N <= -a) near a = k / 4, for k from 0 to 15: of polynomials in a - k / 4 of least relative error, which is 3e-7 at
// the last of them and below 1e-7 up to a = 3, a row of terms each, the highest first.
alignas(64) inline constexpr float lower_tail[6][16] = {
    {-0.00994067919f, -0.00842714775f, -0.00454670051f, 0.000167791382f, 0.00403282093f, 0.00596953835f, 0.00584142562f,
     0.00428327918f, 0.00222834968f, 0.000450021733f, -0.000669522036f, -0.00111997861f, -0.00110249012f,
     -0.000859889667f, -0.000573999248f, -0.000338787329f},
    {-2.96042373e-08f, -0.0117865689f, -0.0200986769f, -0.0228671953f, -0.0201171078f, -0.0136613902f, -0.00608636811f,
     0.000362752093f, 0.00446786731f, 0.00611410523f, 0.00592210889f, 0.0047511938f, 0.00332641974f, 0.00208233763f,
     0.00118136778f, 0.000612513162f},
    {0.0664901212f, 0.0604163371f, 0.0440075397f, 0.0219574235f, -2.45058288e-07f, -0.0171232671f, -0.0269824769f,
     -0.0296573471f, -0.0269950312f, -0.0214900747f, -0.0153371189f, -0.00994608086f, -0.00590921054f, -0.00323390146f,
     -0.00163637626f, -0.000767701189f},
    {3.51942919e-10f, 0.04833325f, 0.088015914f, 0.112926126f, 0.120985091f, 0.114155598f, 0.0971382856f, 0.0754928291f,
     0.0539911501f, 0.0357072428f, 0.0219104439f, 0.0125036649f, 0.00664775819f, 0.00329717784f, 0.00152717112f,
     0.000661099621f},
    {-0.398942292f, -0.386668116f, -0.352065325f, -0.301137418f, -0.241970718f, -0.182649091f, -0.1295176f,
     -0.086277321f, -0.0539909676f, -0.0317396522f, -0.0175283011f, -0.00909356214f, -0.00443184795f, -0.00202904758f,
     -0.000872682314f, -0.000352595409f},
    {0.5f, 0.401293665f, 0.308537543f, 0.22662735f, 0.158655256f, 0.105649777f, 0.066807203f, 0.0400591567f,
     0.0227501318f, 0.0122244721f, 0.00620966544f, 0.00297976332f, 0.00134989806f, 0.000577025057f, 0.0002326291f,
     8.84172987e-05f},
};

// As everywhere::gelu, to as many digits, in two fifths of the time; of normal numbers one in ten thousand takes that.
inline Vec<float> gelu(Vec<float> x) {
  using F = Vec<float>;
  constexpr float end = 3.875f, round = 0x1.8p23f;  // adding it leaves whole numbers only, in the last bits
  const F a = max(x, -x), shifted = fma(a, F::fill(4), F::fill(round));
  const F apart = fma(shifted - F::fill(round), F::fill(-0.25f), a);
  const auto term = [&](int i) {  // of the last bits permutexvar takes four
    return F{_mm512_permutexvar_ps((__m512i)shifted.v, _mm512_load_ps(lower_tail[i]))};
  };
  F share = term(0);
#pragma GCC unroll 5
  for (int i = 1; i < 6; ++i) share = fma(share, apart, term(i));
  const __mmask16 upper = _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GE_OQ);
  const F found = x * F{_mm512_mask_sub_ps(share.v, upper, _mm512_set1_ps(1), share.v)};
  const __mmask16 near = _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(end), _CMP_LT_OQ);
  if (near == 0xffff) [[likely]]
    return found;
  return {_mm512_mask_mov_ps(everywhere::gelu(x).v, near, found.v)};
}

}  // namespace lightsr
