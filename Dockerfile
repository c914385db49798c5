# For CPUs:
#   docker build -t dlrm_jax .
#   docker run --rm -v "$PWD:/work" dlrm_jax dlrm-train --config=synthetic --workdir=runs/synthetic
FROM python:3.13 AS build
COPY pyproject.toml setup.py MANIFEST.in requirements.txt README.md LICENSE /source/
COPY configs /source/configs
COPY dlrm_jax /source/dlrm_jax
RUN pip wheel --no-cache-dir --no-deps --wheel-dir=/wheel /source

FROM python:3.13-slim
COPY --from=build /wheel /wheel
RUN pip install --no-cache-dir "dlrm_jax @ file://$(echo /wheel/*.whl)"
ENV JAX_PLATFORMS=cpu
# Fails where the kernels in C were not compiled.
RUN python -m dlrm_jax.native
WORKDIR /work
CMD ["dlrm-train", "--help"]
