# For CPUs:
#   docker build -t dlrm_jax .
#   docker run --rm -v "$PWD:/work" dlrm_jax dlrm-train --config=synthetic --workdir=runs/synthetic
FROM python:3.13-slim
COPY pyproject.toml requirements.txt README.md LICENSE /source/
COPY configs /source/configs
COPY dlrm_jax /source/dlrm_jax
RUN pip install --no-cache-dir /source
ENV JAX_PLATFORMS=cpu
WORKDIR /work
CMD ["dlrm-train", "--help"]
