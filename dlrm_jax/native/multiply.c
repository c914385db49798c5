/* Products of matrices of 64-bit integers, modulo 2^64: u32[M, 2 K], u32[K, 2 N]
   -> u32[M, 2 N]. An integer is two words of 32 bits, the low one first.

   Before AVX-512DQ no x86 processor multiplies vectors of 64 bits: compilers make
   three products of 32 bits of one. In doubles, which hold 53 bits of a sum, it
   would be six. */
#include "call.h"

#include <string.h>

/* Wider vectors would be halved, and compilers keep the halves in memory. */
typedef uint64_t integers __attribute__((vector_size(32), aligned(8), may_alias));

/* A tile of sums is in registers, a panel of b in the first cache. */
enum { ROWS = 4, VECTORS = 2, COLUMNS = 4 * VECTORS, DEPTH = 256 };
enum { ROWS_OF_PART = 128 };

struct product {
  const uint64_t *a, *b;
  uint64_t *sums;
  int64_t rows, depth, columns;
  int64_t panels; /* side by side in b */
};

/* Some columns of some rows of b, filled up with zeros. */
struct panel {
  int64_t row, depth, column, width;
  integers values[DEPTH][VECTORS];
};

ALWAYS_INLINE void read_panel(const struct product *p, struct panel *panel) {
  const uint64_t *b = p->b + panel->row * p->columns + panel->column;
  if (panel->width < COLUMNS) memset(panel->values, 0, sizeof panel->values);
  for (int64_t k = 0; k < panel->depth; k++)
    memcpy(panel->values[k], b + k * p->columns, panel->width * sizeof *b);
}

/* Adds the products of some rows of a with a panel to their sums. */
ALWAYS_INLINE void add_products(const struct product *p, const struct panel *panel,
                                int64_t row, const int rows) {
  const uint64_t *a = p->a + row * p->depth + panel->row;
  uint64_t *sums = p->sums + row * p->columns + panel->column;
  size_t bytes = panel->width * sizeof *sums;
  integers total[ROWS][VECTORS] = {0};
  if (panel->row > 0)
    for (int r = 0; r < rows; r++) memcpy(total[r], sums + r * p->columns, bytes);
  for (int64_t k = 0; k < panel->depth; k++)
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++)
        total[r][v] += a[r * p->depth + k] * panel->values[k][v];
  for (int r = 0; r < rows; r++) memcpy(sums + r * p->columns, total[r], bytes);
}

FOR_EACH_TARGET
static void multiply_part(void *data, int64_t part) {
  const struct product *p = data;
  int64_t first = part / p->panels * ROWS_OF_PART, last = first + ROWS_OF_PART;
  if (last > p->rows) last = p->rows;
  struct panel panel = {.column = part % p->panels * COLUMNS};
  panel.width = p->columns - panel.column;
  if (panel.width > COLUMNS) panel.width = COLUMNS;
  for (; panel.row < p->depth; panel.row += DEPTH) {
    panel.depth = p->depth - panel.row;
    if (panel.depth > DEPTH) panel.depth = DEPTH;
    read_panel(p, &panel);
    int64_t row = first;
    for (; row + ROWS <= last; row += ROWS) add_products(p, &panel, row, ROWS);
    for (; row < last; row++) add_products(p, &panel, row, 1);
  }
}

XLA_FFI_Error *dlrm_jax_multiply(XLA_FFI_CallFrame *frame) {
  if (answered_metadata(frame)) return NULL;
  const XLA_FFI_Buffer *a = operand(frame, 0), *b = operand(frame, 1);
  struct product p = {
      .a = a->data,
      .b = b->data,
      .sums = result(frame, 0)->data,
      .rows = a->dims[0],
      .depth = b->dims[0],
      .columns = b->dims[1] / 2,
  };
  p.panels = (p.columns + COLUMNS - 1) / COLUMNS;
  int64_t parts = (p.rows + ROWS_OF_PART - 1) / ROWS_OF_PART * p.panels;
  run_parts(frame, parts, multiply_part, &p);
  return NULL;
}
