/* Sums of bags of rows: a table, i32[B, K] (, f32[B, K]) -> f32[B, G, D]. */
#include "pool.h"

/* What the arrays of a kind of table are made of. */
static const struct {
  XLA_FFI_DataType table, lines;
  int bits; /* of a number of the table */
} kinds[] = {
    [FLOAT32] = {XLA_FFI_DataType_F32, 0, 32},
    [FLOAT16] = {XLA_FFI_DataType_U16, 0, 16},
    [BFLOAT16] = {XLA_FFI_DataType_U16, 0, 16},
    [INT8] = {XLA_FFI_DataType_U8, XLA_FFI_DataType_F32, 8},
    [INT4] = {XLA_FFI_DataType_U8, XLA_FFI_DataType_U16, 8},
    [INT2] = {XLA_FFI_DataType_U8, XLA_FFI_DataType_U16, 8},
};

/* Counts the rows in the arrays of a table, which may be packed: they lie one after
   the other. False: the arrays are no table of that kind and width. */
static bool count_rows(const XLA_FFI_CallFrame *frame, enum row_kind kind, int64_t dim,
                       uint32_t *rows) {
  const XLA_FFI_Buffer *table = operand(frame, 0), *lines = operand(frame, 1);
  int64_t bits_of_row = dim * bits_of(kind);
  int64_t bits = table->dims[0] * table->dims[1] * kinds[kind].bits;
  if (table->dtype != kinds[kind].table) return false;
  if (bits_of_row < 1 || bits_of_row % 8 || bits % bits_of_row) return false;
  *rows = (uint32_t)(bits / bits_of_row);
  if (!has_lines(kind)) return true;
  return lines->dtype == kinds[kind].lines &&
         lines->dims[0] * lines->dims[1] == 2 * (int64_t)*rows;
}

enum { LEAST_BYTES = 1 << 15 }; /* of rows that a part reads, were they float32 */

/* Operands: the arrays of a table (codes first), ids (, weights). */
XLA_FFI_Error *dlrm_jax_pool(XLA_FFI_CallFrame *frame) {
  if (answered_metadata(frame)) return NULL;
  const XLA_FFI_Scalar *given = attribute(frame, "kind");
  enum row_kind kind = *(const int32_t *)given->value;
  int arrays = has_lines(kind) ? 2 : 1;
  const XLA_FFI_Buffer *ids = operand(frame, arrays), *sums = result(frame, 0);
  bool weighted = frame->args.size > arrays + 1;
  struct lookup l = {
      .table = operand(frame, 0)->data,
      .lines = operand(frame, arrays - 1)->data,
      .dim = sums->dims[2],
      .row_bytes = sums->dims[2] * bits_of(kind) / 8,
      .ids = ids->data,
      .weights = weighted ? operand(frame, arrays + 1)->data : NULL,
      .examples = ids->dims[0],
      .ids_of_example = ids->dims[1],
      .bags = sums->dims[1],
      .sums = sums->data,
  };
  if (!read_groups(frame, l.ids_of_example, l.bags, &l.groups))
    return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                   "dlrm_jax_pool: the groups do not fit the ids");
  if (!count_rows(frame, kind, l.dim, &l.rows))
    return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                   "dlrm_jax_pool: the arrays do not fit the kind of the rows");
  int64_t bytes = l.examples * l.ids_of_example * l.dim * (int64_t)sizeof(float);
  int64_t parts = 4 * thread_count(frame);
  if (parts > bytes / LEAST_BYTES) parts = bytes / LEAST_BYTES;
  if (parts > l.examples) parts = l.examples;
  if (parts < 1) parts = 1;
  l.examples_of_part = (l.examples + parts - 1) / parts;
  sum_part *const *sums_of = sums8;
#if defined(__x86_64__) && DLRM_JAX_ONE_TARGET != 8
  if (l.dim >= 16 && __builtin_cpu_supports("avx512f")) sums_of = sums16;
#endif
  run_parts(frame, parts, sums_of[kind], &l);
  return NULL;
}
