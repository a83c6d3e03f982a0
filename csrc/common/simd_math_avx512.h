// sigmoid and gelu of float32 by what AVX-512 has for it: powers of two, and tables in a register.
#pragma once

#include <immintrin.h>

#include "simd_math_everywhere.h"

namespace lightsr {

// `most` times the sigmoid, as off as everywhere::sigmoid. e^-x = 2^y is 2^floor(y) 2^f with f = y - floor(y), and 2^f
// a polynomial fitted to 2e-9: half the steps of exp. Infinities and NaN come out right.
inline Vec<float> sigmoid(Vec<float> x, Vec<float> most = Vec<float>::fill(1)) {
  using F = Vec<float>;
  const auto number = [](float value) { return F::fill(value); };
  constexpr int down = 1;
  constexpr float terms[] = {0x1.461956p-10f, 0x1.3d28p-7f, 0x1.c685p-5f, 0x1.ebfd9ep-3f, 0x1.62e42ap-1f, 1};
  const F one = number(1), y = x * number(-1.44269504f), f{_mm512_reduce_ps(y.v, down)};
  F power = number(0x1.c72118p-13f);
  for (float term : terms) power = fma(power, f, number(term));
  return most / (one + F{_mm512_scalef_ps(power.v, y.v)});
}

// P(N <= -a) near a = k / 4, as polynomials in a - k / 4 of least relative error, a row of terms each, the highest
// first: for k from 0 to 15 to 3e-7, below a = 3 to 1e-7, and from 16 to 31 to 3e-7.
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
alignas(64) inline constexpr float far_tail[8][16] = {
    {-2.53601429e-05f, -1.68805891e-05f, -9.58076907e-06f, -4.78923039e-06f, -2.14555917e-06f, -8.70645351e-07f,
     -3.22285729e-07f, -1.09373907e-07f, -3.41561055e-08f, -9.84324267e-09f, -2.62358402e-09f, -6.47920551e-10f,
     -1.48477633e-10f, -3.16117479e-11f, -6.25945476e-12f, -1.15374908e-12f},
    {8.26484174e-05f, 4.53731118e-05f, 2.23272345e-05f, 9.95796836e-06f, 4.0548075e-06f, 1.51511142e-06f,
     5.21451568e-07f, 1.65771326e-07f, 4.87858145e-08f, 1.33148665e-08f, 3.37495321e-09f, 7.95439825e-10f,
     1.74499137e-10f, 3.56613523e-11f, 6.79423314e-12f, 1.20753049e-12f},
    {-0.000181789947f, -8.78374558e-05f, -3.88382286e-05f, -1.5789743e-05f, -5.9229551e-06f, -2.05539936e-06f,
     -6.61215324e-07f, -1.97511739e-07f, -5.48564252e-08f, -1.41816701e-08f, -3.41582429e-09f, -7.67138408e-10f,
     -1.60751454e-10f, -3.14479415e-11f, -5.74653996e-12f, -9.8127615e-13f},
    {0.000289964344f, 0.000127279549f, 5.16965265e-05f, 1.94724435e-05f, 6.81386427e-06f, 2.21812684e-06f,
     6.72500676e-07f, 1.90073095e-07f, 5.01201214e-08f, 1.23383455e-08f, 2.83728552e-09f, 6.09767903e-10f,
     1.22525837e-10f, 2.30279667e-11f, 4.04941315e-12f, 6.66445631e-13f},
    {-0.000334575539f, -0.00013569984f, -5.12811457e-05f, -1.80747793e-05f, -5.94687117e-06f, -1.8277052e-06f,
     -5.25024404e-07f, -1.41034036e-07f, -3.54424685e-08f, -8.33564151e-09f, -1.83530358e-09f, -3.78400811e-10f,
     -7.30766489e-11f, -1.32215549e-11f, -2.24154918e-12f, -3.56165103e-13f},
    {0.000267660449f, 0.000101402104f, 3.59634214e-05f, 1.19450815e-05f, 3.71679948e-06f, 1.08372399e-06f,
     2.96168537e-07f, 7.58782903e-08f, 1.82276665e-08f, 4.10626111e-09f, 8.67607375e-10f, 1.71954534e-10f,
     3.19716094e-11f, 5.57721968e-12f, 9.12874268e-13f, 1.40209675e-13f},
    {-0.000133830225f, -4.77186368e-05f, -1.59837418e-05f, -5.02950752e-06f, -1.4867195e-06f, -4.12847101e-07f,
     -1.07697602e-07f, -2.63924331e-08f, -6.07588335e-09f, -1.31400191e-09f, -2.66955708e-10f, -5.09493871e-11f,
     -9.13472249e-12f, -1.5385385e-12f, -2.43432146e-13f, -3.61829639e-14f},
    {3.16712431e-05f, 1.06885254e-05f, 3.39767303e-06f, 1.01708326e-06f, 2.86651584e-07f, 7.60496022e-08f,
     1.89895619e-08f, 4.46217241e-09f, 9.86587589e-10f, 2.05226336e-10f, 4.01600038e-11f, 7.39225781e-12f,
     1.27981252e-12f, 2.08385812e-13f, 3.19089136e-14f, 4.59462731e-15f},
};

// As everywhere::gelu, from 3.875 up, where no vector has such a number in two fifths of its time; up to 7.875 in four.
// A lane's result is the same whatever the others are.
inline Vec<float> gelu(Vec<float> x) {
  using F = Vec<float>;
  constexpr float round = 0x1.8p23f;  // adding it leaves whole numbers only, in the last bits
  const F a = max(x, -x), shifted = fma(a, F::fill(4), F::fill(round));
  const F apart = fma(shifted - F::fill(round), F::fill(-0.25f), a);
  const auto tail = [&]<int count>(const float (&terms)[count][16]) __attribute__((always_inline)) {
    const auto term = [&](int i) {  // of the bits permutexvar takes the last four
      return F{_mm512_permutexvar_ps((__m512i)shifted.v, _mm512_load_ps(terms[i]))};
    };
    F found = term(0);
#pragma GCC unroll 8
    for (int i = 1; i < count; ++i) found = fma(found, apart, term(i));
    return found;
  };
  const auto below = [&](float end) { return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(end), _CMP_LT_OQ); };
  const __mmask16 all = 0xffff, near = below(3.875f);
  F share = tail(lower_tail);
  if (near != all) [[unlikely]]
    share = {_mm512_mask_mov_ps(tail(far_tail).v, near, share.v)};
  const __mmask16 upper = _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GE_OQ);
  const F found = x * F{_mm512_mask_sub_ps(share.v, upper, _mm512_set1_ps(1), share.v)};
  if (near == all) [[likely]]
    return found;
  const __mmask16 known = below(7.875f);
  if (known == all) return found;
  return {_mm512_mask_mov_ps(everywhere::gelu(x).v, known, found.v)};
}

}  // namespace lightsr
