"""Methods of calibration; imports nothing, as a parser of flags names them."""

import enum


class Method(enum.Enum):
  """What the limits of a layer's inputs are.

  MIN_MAX: the least and the greatest input.
  PERCENTILE: one input in 10,000 is less, one greater.
  LEAST_SQUARES: the squared error of the codes is least. Inputs beyond the
    limits become the limits; others are off by up to half a step.
  """

  MIN_MAX = 'min_max'
  PERCENTILE = 'percentile'
  LEAST_SQUARES = 'least_squares'
