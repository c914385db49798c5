/* A lookup, and the functions that sum its bags. */
#ifndef DLRM_JAX_POOL_H
#define DLRM_JAX_POOL_H

#include "call.h"

/* As `RowKind` of native/__init__.py. Rows of the last three are codes, which stand
   for code * scale + bias; both are float32 with codes of 8 bits, else float16. */
enum row_kind { FLOAT32, FLOAT16, BFLOAT16, INT8, INT4, INT2, ROW_KINDS };

ALWAYS_INLINE int bits_of(const enum row_kind kind) {
  static const int bits[] = {32, 16, 16, 8, 4, 2};
  return bits[kind];
}

ALWAYS_INLINE bool has_lines(const enum row_kind kind) { return kind >= INT8; }

struct lookup {
  const uint8_t *table, *lines; /* lines: scale and bias of rows of codes */
  uint32_t rows;
  int64_t dim, row_bytes;
  const int32_t *ids;
  const float *weights; /* NULL: all are 1 */
  int64_t examples, ids_of_example, bags;
  struct groups groups;
  int64_t examples_of_part;
  float *sums;
};

/* Sums the bags of a part of the examples of a lookup. By kind of the rows; in
   vectors of 8, and of 16 for processors with AVX-512 and at least 16 columns. */
typedef void sum_part(void *lookup, int64_t part);
extern sum_part *const sums8[ROW_KINDS];
#ifdef __x86_64__
extern sum_part *const sums16[ROW_KINDS];
#endif

#endif
