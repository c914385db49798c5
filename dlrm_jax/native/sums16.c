/* Sums of bags in vectors of 16, for AVX-512. */
#ifdef __x86_64__

#define LANES 16
#include "sums.h"

SUM_PARTS(sums16, __attribute__((target("avx512f"))))

#endif
