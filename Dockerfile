# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target cpu  -t myna .          the default engine, on any machine
#   docker build --target cuda -t myna:cuda .     NVIDIA Parakeet; run it with --gpus all
# Only the build stages have compilers.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/myna
ENV PATH=/opt/myna/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY myna myna

FROM build AS build-cpu
RUN pip install --no-cache-dir '.[server]' && python -m compileall -q /opt/myna

FROM build AS build-cuda
# PyTorch's wheels contain the CUDA libraries; the host provides the driver.
RUN pip install --no-cache-dir '.[parakeet]'

FROM python:3.11-slim-bookworm AS base
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/myna myna \
    && mkdir -p /models /data \
    && chown myna:myna /models /data
ENV PATH=/opt/myna/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MYNA_HOST=0.0.0.0 \
    MYNA_PORT=8000 \
    MYNA_MODELS=/models \
    MYNA_DATA=/data \
    XDG_CACHE_HOME=/data/cache \
    MYNA_LOG_FORMAT=json
USER myna
WORKDIR /var/lib/myna
VOLUME ["/models", "/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-I", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"MYNA_PORT\"]}/health/live', timeout=2)"]
ENTRYPOINT ["myna"]
CMD ["serve"]

FROM base AS cuda
COPY --from=build-cuda /opt/myna /opt/myna
ENV MYNA_MODEL=nvidia/parakeet-tdt-0.6b-v3 \
    HF_HOME=/models/hub

# `docker build .` builds the last stage.
FROM base AS cpu
COPY --from=build-cpu /opt/myna /opt/myna
