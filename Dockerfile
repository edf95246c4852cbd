# syntax=docker/dockerfile:1
# Two images, told in docs/containers.md:
#   docker build --target export -t resharp-export .     makes engine stores; large, has PyTorch
#   docker build --target runtime -t resharp-runtime .   restores pictures; lean
# The NVIDIA container toolkit mounts the driver's libraries; no image holds them.
ARG PYTHON=3.12

# An empty store. `docker build --build-context store=FOLDER` puts a folder in its place.
FROM scratch AS store

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --no-deps --wheel-dir /dist .

# What both images share: where the store is, and what they ask of the container toolkit.
FROM python:${PYTHON}-slim AS base
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RESHARP_HOME=/store

FROM base AS export
# `gpu` for TensorRT, `rtx` for TensorRT-RTX; the same for both images.
ARG EXTRA=gpu
# An index with the CPU build of torch makes this image gigabytes smaller; export needs no more.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=build,source=/dist,target=/dist \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python -m pip install --constraint /constraints.txt "$(echo /dist/*.whl)[export,${EXTRA}]"
WORKDIR /data
VOLUME /store
ENTRYPOINT ["export-engines"]

FROM base AS runtime
ARG EXTRA=gpu
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=build,source=/dist,target=/dist \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python -m pip install --constraint /constraints.txt "$(echo /dist/*.whl)[${EXTRA}]" \
    && useradd --create-home --uid 10001 resharp
# Owned by root: the user of the image can read the store and cannot change it.
COPY --from=store / /store/
USER 10001
WORKDIR /data
ENTRYPOINT ["resharp"]
