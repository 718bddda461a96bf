# Trainer and exporter, with PyTorch; for a GPU as well as without one. docs/images.md says how it is built and run.
#
# BASE    Debian or Ubuntu with Python 3.11 or later among its packages; CUDA's libraries come with PyTorch

ARG BASE=debian:12-slim

FROM ${BASE} AS python
# Not pinned: the distribution's security updates are wanted. What decides scores comes from constraints.txt.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/genprint
WORKDIR /source
COPY LICENSE README.md constraints.txt pyproject.toml ./
# In the environment, so that they bind the build backend too.
ENV PIP_CONSTRAINT=/source/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# The dependencies in a layer of their own: without its packages the project is nothing but a list of them.
# The secrets say how pip reaches its index from here, and may be absent.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/pip.certificates \
    /opt/pip/bin/pip --python /opt/genprint/bin/python install ".[exporter]"
COPY bundle bundle
COPY exporter exporter
COPY genprint genprint
COPY trainer trainer
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/pip.certificates \
    /opt/pip/bin/pip --python /opt/genprint/bin/python install --no-deps --force-reinstall .

FROM python AS trainer
LABEL org.opencontainers.image.title="Genprint trainer and exporter" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/genprint /opt/genprint
# HOME: PyTorch keeps caches there. NVIDIA_: what the NVIDIA container toolkit is to hand in.
# ORT_: the official builds of ONNX Runtime report what they are used for, unless told not to.
ENV HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    ORT_DISABLE_TELEMETRY=1 \
    PATH=/opt/genprint/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /work
USER 10001:10001
# `trainer …` or `exporter …`
ENTRYPOINT ["genprint"]
CMD ["trainer", "--help"]
