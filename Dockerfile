# syntax=docker/dockerfile:1
# Two images, described in docs/how-to/containers.md:
#   docker build --target export -t resharp-export .     builds engine stores; large, with PyTorch
#   docker build --target runtime -t resharp-runtime .   restores images; small
# The driver's libraries are not in the images: the NVIDIA container toolkit mounts them.
ARG PYTHON=3.12

# An empty store. `docker build --build-context store=FOLDER` replaces it with a folder.
FROM scratch AS store

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --no-deps --wheel-dir /dist .

# Shared by both images: the location of the store and the requests to the container toolkit.
FROM python:${PYTHON}-slim AS base
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RESHARP_HOME=/store

FROM base AS export
# `gpu` for TensorRT, `rtx` for TensorRT-RTX; must be the same for both images.
ARG EXTRA=gpu
# Index with the CPU build of torch, which suffices for exports and saves gigabytes.
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
# Owned by root, so the image's user can read but not modify the store.
COPY --from=store / /store/
USER 10001
WORKDIR /data
ENTRYPOINT ["resharp"]
