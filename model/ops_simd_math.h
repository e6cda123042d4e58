/* ops_simd_math.h - functions of a vector of floats that both instruction sets share; needs the vf_* of
 * ops_simd.h. Everything is static inline. */
#ifndef CAIRN_MODEL_OPS_SIMD_MATH_H
#define CAIRN_MODEL_OPS_SIMD_MATH_H

/* e^x to about 1e-7 relative: 2^n times a polynomial on [-ln2/2, ln2/2]. NaN stays NaN; below -87 the result
 * is about 1e-38, above 88 about 2e38. Argument order of min and max matters: x86 returns the second when one
 * is NaN. */
static inline vf vf_exp(vf x)
{
    x = vf_min(vf_set(88.0f), vf_max(vf_set(-87.0f), x));
    vf n = vf_round(vf_mul(x, vf_set(1.44269504088896341f)));
    vf r = vf_fma(n, vf_set(-0.693359375f), x);
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    vf p = vf_set(1.0f / 5040.0f);
    p = vf_fma(p, r, vf_set(1.0f / 720.0f));
    p = vf_fma(p, r, vf_set(1.0f / 120.0f));
    p = vf_fma(p, r, vf_set(1.0f / 24.0f));
    p = vf_fma(p, r, vf_set(1.0f / 6.0f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_scale2(p, n);
}

/* x times the normal distribution's integral, 1/2 + u P(u^2) with u = x held to [-5, 5]: a least-squares fit
 * of degree 12 in u^2 / 12.5 - 1, weighted by the error it leaves in the product, which is at most 9e-7 below
 * 3 and 3e-7 of x above. A division and an exponential, as erf needs them, cost four times as much. */
static inline vf vf_gelu(vf x)
{
    static const float p[] = {0.141363785f,   -0.0702966526f,  0.0515214205f,  -0.0404329449f,
                              0.0314262249f,  -0.0233367551f,  0.0164976902f,  -0.0109731629f,
                              0.00616534334f, -0.00291575701f, 0.00200196076f, -0.00151411723f,
                              0.000492927327f};
    vf low = vf_max(vf_set(-5.0f), x), u = vf_min(vf_set(5.0f), low);
    vf t = vf_fma(vf_mul(u, u), vf_set(0.08f), vf_set(-1.0f)), s = vf_set(p[12]);
#pragma GCC unroll 12
    for (int i = 11; i >= 0; i--)
        s = vf_fma(s, t, vf_set(p[i]));
    return vf_mul(low, vf_fma(u, s, vf_set(0.5f)));
}

#endif
