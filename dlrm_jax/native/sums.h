/* Sums of bags, in vectors of LANES, which the including file defines.

   Lookups of large tables wait for memory. So rows that come later are asked for
   early, of the second cache, which takes more requests at a time than the first.
   Sums of float32 in vectors of 16 are so short that the processor runs far enough
   ahead by itself. */
#include <string.h>

#include "rows.h"

enum { AHEAD = 16, AT_ONCE = 8, CACHE_LINE = 64, MOST_VECTORS = 8 };

#define RARE(condition) __builtin_expect(condition, 0)

/* Places of its ids. Those of the part end at `end`; the rows of all before `asked`
   have been asked for. */
struct bag {
  int64_t first, length, asked, end;
  float *sum;
};

/* Begins to read the rows of the ids that come soon after a place. Each row may be
   in a page that the processor looks up first. While it sums, few of these wait at
   a time: so several of its rows are asked for at once. */
ALWAYS_INLINE void ask_ahead(const struct lookup *l, const enum row_kind kind,
                             struct bag *bag, int64_t place) {
  if (bag->asked > place + AHEAD) return;
  int64_t last = place + AHEAD + AT_ONCE;
  if (RARE(last > bag->end)) last = bag->end;
  for (; bag->asked < last; bag->asked++) {
    uint32_t row = (uint32_t)l->ids[bag->asked];
    if (RARE(row >= l->rows)) continue;
    const uint8_t *at = l->table + row * l->row_bytes, *end = at + l->row_bytes;
    do {
      __builtin_prefetch(at, 0, 2);
      at += CACHE_LINE;
    } while (at < end);
    if (has_lines(kind)) __builtin_prefetch(l->lines + row * line_bytes(kind), 0, 2);
  }
}

/* Sums `vectors` x LANES columns of a bag, in registers. Ids without a row count as
   zeros. */
ALWAYS_INLINE void sum_columns(const struct lookup *l, const enum row_kind kind,
                               const bool weighted, struct bag *bag, int64_t column,
                               const int vectors) {
  const uint8_t *table = l->table + column * bits_of(kind) / 8;
  const int64_t vector_bytes = LANES * bits_of(kind) / 8;
  const int together = vectors < TOGETHER ? 1 : TOGETHER;
  values total[MOST_VECTORS];
  float bias = 0;
  for (int v = 0; v < vectors; v++) total[v] = (values){0};
  for (int64_t at = bag->first; at < bag->first + bag->length; at++) {
    if (LANES == 8 || kind != FLOAT32) ask_ahead(l, kind, bag, at);
    uint32_t row = (uint32_t)l->ids[at];
    if (RARE(row >= l->rows)) continue;
    struct line line = read_line(kind, l->lines + row * line_bytes(kind));
    float weight = weighted ? l->weights[at] : 1;
    float factor = weight * line.scale;
    bias += weight * line.bias;
    for (int v = 0; v < vectors; v += together) {
      values x[2];
      read_vectors(kind, table + row * l->row_bytes + v * vector_bytes, x, together);
      for (int i = 0; i < together; i++) {
        if (weighted || has_lines(kind)) x[i] *= factor;
        total[v + i] += x[i];
      }
    }
  }
  for (int v = 0; v < vectors; v++) {
    if (has_lines(kind)) total[v] += bias;
    *(values *)(bag->sum + column + v * LANES) = total[v];
  }
}

/* Sums a bag of rows of less than LANES columns. */
ALWAYS_INLINE void sum_few(const struct lookup *l, const enum row_kind kind,
                           const bool weighted, struct bag *bag) {
  memset(bag->sum, 0, l->dim * sizeof *bag->sum);
  for (int64_t at = bag->first; at < bag->first + bag->length; at++) {
    ask_ahead(l, kind, bag, at);
    uint32_t row = (uint32_t)l->ids[at];
    if (RARE(row >= l->rows)) continue;
    struct line line = read_line(kind, l->lines + row * line_bytes(kind));
    float weight = weighted ? l->weights[at] : 1;
    for (int64_t d = 0; d < l->dim; d++) {
      float x = read_one(kind, l->table + row * l->row_bytes, d);
      if (has_lines(kind)) x = x * line.scale + line.bias;
      bag->sum[d] += weighted ? weight * x : x;
    }
  }
}

ALWAYS_INLINE void sum_bag(const struct lookup *l, const enum row_kind kind,
                           const bool weighted, struct bag *bag) {
  if (l->dim < LANES) {
    sum_few(l, kind, weighted, bag);
    return;
  }
  int64_t column = 0;
  for (; column + 8 * LANES <= l->dim; column += 8 * LANES)
    sum_columns(l, kind, weighted, bag, column, 8);
  if (column + 4 * LANES <= l->dim) {
    sum_columns(l, kind, weighted, bag, column, 4);
    column += 4 * LANES;
  }
  if (column + 2 * LANES <= l->dim) {
    sum_columns(l, kind, weighted, bag, column, 2);
    column += 2 * LANES;
  }
  for (; column < l->dim; column += LANES) {
    if (column > l->dim - LANES) column = l->dim - LANES; /* some once more */
    sum_columns(l, kind, weighted, bag, column, 1);
  }
}

/* Copies `vectors` x LANES columns of a row; weight: NULL where it is 1. */
ALWAYS_INLINE void copy_columns(const enum row_kind kind, const uint8_t *row,
                                struct line line, const float *weight, int64_t column,
                                float *copy, const int vectors) {
  values x[2];
  read_vectors(kind, row + column * bits_of(kind) / 8, x, vectors);
  for (int v = 0; v < vectors; v++) {
    if (has_lines(kind)) x[v] = x[v] * line.scale + line.bias;
    if (weight != NULL) x[v] *= *weight;
    *(values *)(copy + column + v * LANES) = x[v];
  }
}

/* Copies the rows of bags of one id; zeros where there is none. */
ALWAYS_INLINE void copy_rows(const struct lookup *l, const enum row_kind kind,
                             struct bag *bag, int64_t count) {
  float *copy = bag->sum;
  for (int64_t at = bag->first; at < bag->first + count; at++, copy += l->dim) {
    ask_ahead(l, kind, bag, at);
    uint32_t id = (uint32_t)l->ids[at];
    if (RARE(id >= l->rows)) {
      memset(copy, 0, l->dim * sizeof *copy);
      continue;
    }
    const uint8_t *row = l->table + id * l->row_bytes;
    struct line line = read_line(kind, l->lines + id * line_bytes(kind));
    const float *weight = l->weights == NULL ? NULL : l->weights + at;
    int64_t column = 0;
    if (l->dim < LANES) {
      for (; column < l->dim; column++) {
        float x = read_one(kind, row, column);
        if (has_lines(kind)) x = x * line.scale + line.bias;
        copy[column] = weight == NULL ? x : *weight * x;
      }
    }
    for (; column + TOGETHER * LANES <= l->dim; column += TOGETHER * LANES)
      copy_columns(kind, row, line, weight, column, copy, TOGETHER);
    for (; column < l->dim; column += LANES) {
      if (column > l->dim - LANES) column = l->dim - LANES; /* some once more */
      copy_columns(kind, row, line, weight, column, copy, 1);
    }
  }
}

/* Sums or copies so many bags of equal length, and goes on to the bag after them. */
ALWAYS_INLINE void sum_bags(const struct lookup *l, const enum row_kind kind,
                            struct bag *bag, int64_t count) {
  if (bag->length == 1) {
    copy_rows(l, kind, bag, count);
    bag->first += count;
    bag->sum += count * l->dim;
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    if (l->weights == NULL)
      sum_bag(l, kind, false, bag);
    else
      sum_bag(l, kind, true, bag);
    bag->first += bag->length;
    bag->sum += l->dim;
  }
}

ALWAYS_INLINE void sum_part_of(const void *data, int64_t part,
                               const enum row_kind kind) {
  const struct lookup l = *(const struct lookup *)data; /* which sums cannot alias */
  int64_t first = part * l.examples_of_part;
  int64_t last = first + l.examples_of_part;
  if (last > l.examples) last = l.examples;
  struct bag bag = {
      .first = first * l.ids_of_example,
      .asked = first * l.ids_of_example,
      .end = last * l.ids_of_example,
      .sum = l.sums + first * l.bags * l.dim,
  };
  for (int64_t example = first; example < last; example++) {
    for (int64_t g = 0; g < l.groups.size; g++) {
      bag.length = l.groups.lengths[g];
      sum_bags(&l, kind, &bag, l.groups.counts[g]);
    }
  }
}

/* All kinds, compiled for a target; the name is that of the array. */
#define SUM_PART(target, kind)                                                         \
  target static void sum_part_of_##kind(void *data, int64_t part) {                    \
    sum_part_of(data, part, kind);                                                     \
  }
#define SUM_PARTS(name, target)                                                        \
  SUM_PART(target, FLOAT32)                                                            \
  SUM_PART(target, FLOAT16)                                                            \
  SUM_PART(target, BFLOAT16)                                                           \
  SUM_PART(target, INT8)                                                               \
  SUM_PART(target, INT4)                                                               \
  SUM_PART(target, INT2)                                                               \
  sum_part *const name[ROW_KINDS] = {sum_part_of_FLOAT32,  sum_part_of_FLOAT16,        \
                                     sum_part_of_BFLOAT16, sum_part_of_INT8,           \
                                     sum_part_of_INT4,     sum_part_of_INT2};
