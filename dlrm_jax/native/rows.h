/* How a table keeps its rows, and how they are read. */
#ifndef DLRM_JAX_ROWS_H
#define DLRM_JAX_ROWS_H

#include "call.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the first of the codes in a word must lie in its lowest bits"
#endif

/* As `RowKind` of native/__init__.py. Rows of the last three are codes, which stand
   for code * scale + bias; both are float32 with codes of 8 bits, else float16. */
enum row_kind { FLOAT32, FLOAT16, BFLOAT16, INT8, INT4, INT2 };

ALWAYS_INLINE int bits_of(const enum row_kind kind) {
  static const int bits[] = {32, 16, 16, 8, 4, 2};
  return bits[kind];
}

ALWAYS_INLINE bool has_lines(const enum row_kind kind) { return kind >= INT8; }

/* Values are in vectors of eight: before AVX-512, compilers keep what is wider in
   memory. But sixteen small numbers are widened in fewer steps than twice eight.
   GCC 12 does so in vectors only to the double width at once. */
typedef float values __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t words __attribute__((vector_size(32)));
typedef uint32_t codes __attribute__((vector_size(32)));
enum { LANES = 8 };

typedef int16_t halves __attribute__((vector_size(16), aligned(2), may_alias));
typedef int16_t halves16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t bytes __attribute__((vector_size(8), aligned(1), may_alias));
typedef uint8_t bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int32_t words16 __attribute__((vector_size(64)));
typedef uint16_t half_anywhere __attribute__((aligned(1), may_alias));
typedef uint32_t word_anywhere __attribute__((aligned(1), may_alias));
union wide {
  words16 both;
  words part[2];
};

ALWAYS_INLINE union wide widen_halves(const uint8_t *at, const int vectors) {
  union wide wide;
  if (vectors == 2)
    wide.both = __builtin_convertvector(*(const halves16 *)at, words16);
  else
    wide.part[0] = __builtin_convertvector(*(const halves *)at, words);
  return wide;
}

ALWAYS_INLINE union wide widen_bytes(const uint8_t *at, const int vectors) {
  union wide wide;
  if (vectors == 2) {
    halves16 twice = __builtin_convertvector(*(const bytes16 *)at, halves16);
    wide.both = __builtin_convertvector(twice, words16);
  } else {
    halves twice = __builtin_convertvector(*(const bytes *)at, halves);
    wide.part[0] = __builtin_convertvector(twice, words);
  }
  return wide;
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

/* Reads one or two vectors of values, or codes, from an address on. */
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
  } else if (kind == INT4) {
    const codes shifts = {0, 4, 8, 12, 16, 20, 24, 28};
    for (int v = 0; v < vectors; v++)
      x[v] = from_codes(((codes){0} + ((const word_anywhere *)at)[v]) >> shifts & 15);
  } else {
    const codes shifts = {0, 2, 4, 6, 8, 10, 12, 14};
    for (int v = 0; v < vectors; v++)
      x[v] = from_codes(((codes){0} + ((const half_anywhere *)at)[v]) >> shifts & 3);
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
