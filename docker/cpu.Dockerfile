# DataFlare on a CPU, from a slim Python image and wheels. From the root of the repository:
#
#     docker build -f docker/cpu.Dockerfile -t dataflare:cpu .
#     docker run --rm --init --read-only -v "$PWD/examples:/jobs:ro" -v flights:/data dataflare:cpu run /jobs/flights.toml
#
# Runs as user 10001 and writes two folders only: /data, the current one, and /var/cache/dataflare, what was compiled.
# cuda.Dockerfile is this file with another set of wheels; tests/packaging compares the two.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/dataflare
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY kernels kernels
COPY engine engine
COPY actors actors
# Compiled to bytecode here, as nothing can write it later.
RUN --mount=type=cache,target=/root/.cache/pip \
    version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
    /opt/dataflare/bin/pip install --compile -c "constraints/python-$version.txt" .

FROM ${BASE_IMAGE} AS runtime
ENV PATH=/opt/dataflare/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DATAFLARE_CACHE_DIR=/var/cache/dataflare
RUN groupadd --gid 10001 dataflare && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin dataflare && \
    install -d -o 10001 -g 10001 /data /var/cache/dataflare
COPY --from=build /opt/dataflare /opt/dataflare
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["dataflare"]
CMD ["doctor"]

# A job that has run fills the cache. What it holds is for this CPU and this user; others compile for themselves.
FROM runtime AS seed
COPY examples/flights.toml examples/flights.parquet /jobs/
RUN dataflare run /jobs/flights.toml --device cpu --set sink.path=/tmp/seed.parquet && \
    dataflare run /jobs/flights.toml --device cuda:emulated --set sink.path=/tmp/seed.parquet

FROM runtime
COPY --from=seed --chown=10001:10001 /var/cache/dataflare /var/cache/dataflare
# With a read-only root this folder stays writable, and begins with what the image holds.
VOLUME ["/var/cache/dataflare"]
HEALTHCHECK --interval=60s --timeout=30s --start-period=30s CMD ["dataflare", "doctor"]
