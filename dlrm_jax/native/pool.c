/* Sums of bags of rows: f32[R, D], i32[B, K] (, f32[B, K]) -> f32[B, G, D]. */
#include "call.h"

#include <string.h>

enum { AHEAD = 16 };

struct lookup {
  const float *table;
  uint32_t rows;
  int64_t dim;
  const int32_t *ids;
  const float *weights; /* NULL: all are 1 */
  int64_t examples, ids_of_example, bags;
  struct groups groups;
  int64_t examples_of_part;
  float *sums;
};

/* Sums `vectors` x 16 columns of a bag, in registers. Ids without a row count as
   zeros. */
ALWAYS_INLINE void sum_columns(const struct lookup *l, const int32_t *ids,
                               const float *weights, int64_t length,
                               int64_t column, float *sum, const int vectors) {
  floats total[8];
  for (int v = 0; v < vectors; v++) total[v] = (floats){0};
  for (int64_t j = 0; j < length; j++) {
    uint32_t row = (uint32_t)ids[j];
    if (row >= l->rows) continue;
    const float *values = l->table + row * l->dim + column;
    if (weights == NULL) {
      for (int v = 0; v < vectors; v++)
        total[v] += *(const floats *)(values + v * WIDE);
    } else {
      for (int v = 0; v < vectors; v++)
        total[v] += weights[j] * *(const floats *)(values + v * WIDE);
    }
  }
  for (int v = 0; v < vectors; v++) *(floats *)(sum + v * WIDE) = total[v];
}

ALWAYS_INLINE void sum_bag(const struct lookup *l, const int32_t *ids,
                           const float *weights, int64_t length, float *sum) {
  int64_t column = 0;
  for (; column + 8 * WIDE <= l->dim; column += 8 * WIDE)
    sum_columns(l, ids, weights, length, column, sum + column, 8);
  if (column + 4 * WIDE <= l->dim) {
    sum_columns(l, ids, weights, length, column, sum + column, 4);
    column += 4 * WIDE;
  }
  if (column + 2 * WIDE <= l->dim) {
    sum_columns(l, ids, weights, length, column, sum + column, 2);
    column += 2 * WIDE;
  }
  if (column + WIDE <= l->dim) {
    sum_columns(l, ids, weights, length, column, sum + column, 1);
    column += WIDE;
  }
  if (column == l->dim) return;
  int64_t rest = l->dim - column;
  memset(sum + column, 0, rest * sizeof *sum);
  for (int64_t j = 0; j < length; j++) {
    uint32_t row = (uint32_t)ids[j];
    if (row >= l->rows) continue;
    const float *values = l->table + row * l->dim + column;
    float weight = weights == NULL ? 1 : weights[j];
    for (int64_t d = 0; d < rest; d++) sum[column + d] += weight * values[d];
  }
}

/* One row; zeros where there is none. */
ALWAYS_INLINE void copy_row(const struct lookup *l, int32_t id,
                            const float *weight, float *copy) {
  if ((uint32_t)id >= l->rows) {
    memset(copy, 0, l->dim * sizeof *copy);
    return;
  }
  const float *values = l->table + (uint32_t)id * l->dim;
  int64_t d = 0;
  if (weight == NULL) {
    for (; d + WIDE <= l->dim; d += WIDE)
      *(floats *)(copy + d) = *(const floats *)(values + d);
    for (; d < l->dim; d++) copy[d] = values[d];
    return;
  }
  for (; d + WIDE <= l->dim; d += WIDE)
    *(floats *)(copy + d) = *weight * *(const floats *)(values + d);
  for (; d < l->dim; d++) copy[d] = *weight * values[d];
}

/* Begins to read the row of an id that comes later. */
ALWAYS_INLINE void prefetch(const struct lookup *l, int64_t at, int64_t end) {
  if (at >= end) return;
  uint32_t row = (uint32_t)l->ids[at];
  if (row >= l->rows) return;
  const float *values = l->table + row * l->dim;
  for (int64_t d = 0; d < l->dim; d += WIDE) __builtin_prefetch(values + d);
}

FOR_EACH_TARGET
static void sum_part(void *data, int64_t part) {
  const struct lookup *l = data;
  int64_t first = part * l->examples_of_part;
  int64_t last = first + l->examples_of_part;
  if (last > l->examples) last = l->examples;
  float *sum = l->sums + first * l->bags * l->dim;
  int64_t at = first * l->ids_of_example, end = last * l->ids_of_example;
  for (int64_t example = first; example < last; example++) {
    for (int64_t g = 0; g < l->groups.size; g++) {
      int64_t length = l->groups.lengths[g];
      for (int64_t bag = 0; bag < l->groups.counts[g]; bag++) {
        const float *weights = l->weights == NULL ? NULL : l->weights + at;
        if (length == 1) {
          prefetch(l, at + AHEAD, end);
          copy_row(l, l->ids[at], weights, sum);
        } else {
          sum_bag(l, l->ids + at, weights, length, sum);
        }
        at += length;
        sum += l->dim;
      }
    }
  }
}

enum { LEAST_BYTES = 1 << 15 }; /* of rows that a part reads */

XLA_FFI_Error *dlrm_jax_pool(XLA_FFI_CallFrame *frame) {
  if (answered_metadata(frame)) return NULL;
  const XLA_FFI_Buffer *table = operand(frame, 0), *ids = operand(frame, 1);
  const XLA_FFI_Buffer *sums = result(frame, 0);
  struct lookup l = {
      .table = table->data,
      .dim = sums->dims[2],
      .ids = ids->data,
      .weights = frame->args.size > 2 ? operand(frame, 2)->data : NULL,
      .examples = ids->dims[0],
      .ids_of_example = ids->dims[1],
      .bags = sums->dims[1],
      .sums = sums->data,
  };
  if (!read_groups(frame, l.ids_of_example, l.bags, &l.groups))
    return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                   "dlrm_jax_pool: the groups do not fit the ids");
  /* Packed or not, a stack has its rows one after the other. */
  l.rows = (uint32_t)(table->dims[0] * table->dims[1] / l.dim);
  int64_t bytes = l.examples * l.ids_of_example * l.dim * (int64_t)sizeof(float);
  int64_t parts = 4 * thread_count(frame);
  if (parts > bytes / LEAST_BYTES) parts = bytes / LEAST_BYTES;
  if (parts > l.examples) parts = l.examples;
  if (parts < 1) parts = 1;
  l.examples_of_part = (l.examples + parts - 1) / parts;
  run_parts(frame, parts, sum_part, &l);
  return NULL;
}
