/* Sums of bags in vectors of 8. */
#define LANES 8
#include "sums.h"

SUM_PARTS(sums8, FOR_EACH_TARGET)
