# The worker. docs/images.md says how it is built and run.
#
# BASE    Debian or Ubuntu with Python 3.11 or later among its packages; for DEVICE=cuda with CUDA 13 and cuDNN 9 in it
# DEVICE  cuda, or cpu (another build of ONNX Runtime; a twentieth of the size)

ARG BASE=nvidia/cuda:13.0.3-cudnn-runtime-ubuntu24.04

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
ARG DEVICE=cuda
# In the environment, so that they bind the build backend too.
ENV PIP_CONSTRAINT=/source/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# The dependencies in a layer of their own: without its packages the project is nothing but a list of them.
# The secrets say how pip reaches its index from here, and may be absent.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/pip.certificates \
    /opt/pip/bin/pip --python /opt/genprint/bin/python install ".[worker-${DEVICE}]"
COPY bundle bundle
COPY genprint genprint
COPY worker worker
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/pip.certificates \
    /opt/pip/bin/pip --python /opt/genprint/bin/python install --no-deps --force-reinstall .

FROM python AS worker
ARG DEVICE=cuda
LABEL org.opencontainers.image.title="Genprint worker (${DEVICE})" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/genprint /opt/genprint
# ORT_: the official builds of ONNX Runtime report what they are used for, unless told not to.
# SAFEPATH: the working directory is no place to import from; a mounted bundle must never be taken for code.
ENV GENPRINT_BUNDLE=/bundle \
    GENPRINT_INFERENCE__DEVICE=${DEVICE} \
    ORT_DISABLE_TELEMETRY=1 \
    PATH=/opt/genprint/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; \
        c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('GENPRINT_HTTP__PORT', '9464')), timeout=4); \
        c.request('GET', '/live'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["genprint"]
CMD ["run"]
