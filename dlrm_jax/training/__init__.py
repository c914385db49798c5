"""The pure part of training: state, heads, gradients, step, memory."""
