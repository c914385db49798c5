/* How a table keeps its rows, and how they are read. */
#ifndef DLRM_JAX_ROWS_H
#define DLRM_JAX_ROWS_H

#include "pool.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the first of the codes in a word must lie in its lowest bits"
#endif

/* Values are in vectors of LANES, which the including file defines: 16 with AVX-512,
   else 8, since compilers keep in memory what is wider than a register. But sixteen
   small numbers are widened in fewer steps than twice eight. GCC 12 does so in
   vectors only to the double width at once. */
enum { TOGETHER = 16 / LANES }; /* vectors that are read at once */
typedef float values __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t words __attribute__((vector_size(4 * LANES)));
typedef uint32_t codes __attribute__((vector_size(4 * LANES)));
typedef uint32_t some_codes
    __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef int16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef int16_t halves16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef uint8_t bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int32_t words16 __attribute__((vector_size(64)));
typedef uint16_t half_anywhere __attribute__((aligned(1), may_alias));
typedef uint32_t word_anywhere __attribute__((aligned(1), may_alias));
union wide {
  words16 both;
  words part[TOGETHER];
};

ALWAYS_INLINE union wide widen_halves(const uint8_t *at, const int vectors) {
  union wide wide;
  if (vectors == TOGETHER)
    wide.both = __builtin_convertvector(*(const halves16 *)at, words16);
  else
    wide.part[0] = __builtin_convertvector(*(const halves *)at, words);
  return wide;
}

ALWAYS_INLINE union wide widen_bytes(const uint8_t *at, const int vectors) {
  union wide wide;
  if (vectors == TOGETHER) {
    halves16 twice = __builtin_convertvector(*(const bytes16 *)at, halves16);
    wide.both = __builtin_convertvector(twice, words16);
  } else {
    halves twice = __builtin_convertvector(*(const bytes *)at, halves);
    wide.part[0] = __builtin_convertvector(twice, words);
  }
  return wide;
}

/* Codes of 4 bits, of which a word has eight. */
ALWAYS_INLINE codes split_fours(const uint8_t *at) {
  static const uint32_t shifts[] = {0, 4, 8, 12, 16, 20, 24, 28,
                                    0, 4, 8, 12, 16, 20, 24, 28};
  codes word = (codes){0} + ((const word_anywhere *)at)[0];
  if (LANES == 16) {
    const codes first = {-1, -1, -1, -1, -1, -1, -1, -1};
    word = (word & first) | (((codes){0} + ((const word_anywhere *)at)[1]) & ~first);
  }
  return word >> *(const some_codes *)shifts & 15;
}

/* Codes of 2 bits. */
ALWAYS_INLINE codes split_twos(const uint8_t *at) {
  static const uint32_t shifts[] = {0,  2,  4,  6,  8,  10, 12, 14,
                                    16, 18, 20, 22, 24, 26, 28, 30};
  codes word = (codes){0} +
               (LANES == 16 ? *(const word_anywhere *)at : *(const half_anywhere *)at);
  return word >> *(const some_codes *)shifts & 3;
}

/* Values of float16, from its bits with the sign extended. No number in between is
   below the least normal float32: XLA's threads take such numbers for 0. */
ALWAYS_INLINE values from_float16(words bits) {
  words number = (bits & 0x7fff) << 13;
  /* Exponents are 112 too large, so that those of infinities and NaNs fit. */
  values large = (values)(number + (224 << 23));
  /* Numbers whose exponent is 0 have no leading 1, and the exponent of 1. */
  large += (values)((words)(large - 0x1p98f) & (number < 1 << 23));
  return (values)((words)(large * 0x1p-112f) | (bits & INT32_MIN));
}

ALWAYS_INLINE values from_bfloat16(codes bits) { return (values)(bits << 16); }

ALWAYS_INLINE values from_codes(codes found) {
  return __builtin_convertvector((words)found, values);
}

/* Reads one or TOGETHER vectors of values, or codes, from an address on. */
ALWAYS_INLINE void read_vectors(const enum row_kind kind, const uint8_t *at, values *x,
                                const int vectors) {
  if (kind == FLOAT32) {
    for (int v = 0; v < vectors; v++) x[v] = ((const values *)at)[v];
  } else if (kind == FLOAT16 || kind == BFLOAT16) {
    union wide wide = widen_halves(at, vectors);
    for (int v = 0; v < vectors; v++)
      x[v] = kind == FLOAT16 ? from_float16(wide.part[v])
                             : from_bfloat16((codes)wide.part[v]);
  } else if (kind == INT8) {
    union wide wide = widen_bytes(at, vectors);
    for (int v = 0; v < vectors; v++) x[v] = from_codes((codes)wide.part[v]);
  } else {
    for (int v = 0; v < vectors; v++) {
      const uint8_t *from = at + v * LANES * bits_of(kind) / 8;
      x[v] = from_codes(kind == INT4 ? split_fours(from) : split_twos(from));
    }
  }
}

/* The value, or code, of one column of a row. */
ALWAYS_INLINE float read_one(const enum row_kind kind, const uint8_t *row,
                             int64_t column) {
  const int bits = bits_of(kind);
  const uint8_t *at = row + column * bits / 8;
  if (kind == FLOAT32) return *(const float *)at;
  if (kind == FLOAT16) return from_float16((words){*(const int16_t *)at})[0];
  if (kind == BFLOAT16) return from_bfloat16((codes){*(const uint16_t *)at})[0];
  return (float)(*at >> column * bits % 8 & ((1 << bits) - 1));
}

/* What the codes of a row stand for. */
struct line {
  float scale, bias;
};

ALWAYS_INLINE int64_t line_bytes(const enum row_kind kind) {
  return !has_lines(kind) ? 0 : kind == INT8 ? 8 : 4;
}

ALWAYS_INLINE struct line read_line(const enum row_kind kind, const uint8_t *at) {
  if (!has_lines(kind)) return (struct line){1, 0};
  if (kind == INT8) return *(const struct line *)at;
  codes twice = (codes){0} + *(const uint32_t *)at;
  values both = from_float16((words)(twice << (codes){16, 0}) >> 16);
  return (struct line){both[0], both[1]};
}

#endif
