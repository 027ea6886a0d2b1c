#ifndef QUANTD_CORE_SCHEME_GGML_SEARCH_REF_H_
#define QUANTD_CORE_SCHEME_GGML_SEARCH_REF_H_

// The searches of ggml's formats as ggml writes them down, which the scalar definitions of several
// of its families call. All in f32, sums in the order of elements.

namespace quantd {

// nearest_int: a whole number, half-even; beyond 2^22 what the bits say.
int NearestRef(float value);

// Returns the value of largest magnitude of `n` if that is no less than 1e-15, else 0.
float MaxRef(int n, const float* x);

// make_qx_quants of `n` values, 32 at most, with rmse_type 1 or weights. Returns the scale;
// `levels` are its L, from 0.
float QxRef(int n, int nmax, const float* x, const float* w, int* levels);

struct RunRef {
  float scale, min, weight;
  int codes[32];
};

// make_qkx2_quants and make_qkx3_quants of `n` values, 32 at most.
RunRef SearchRef(int n, int nmax, const float* x, const float* w, float rmin, float rdelta,
                 int nstep, bool use_mad);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_GGML_SEARCH_REF_H_
