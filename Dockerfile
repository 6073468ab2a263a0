# syntax=docker/dockerfile:1
# The image of workers, relay and provision job: `docker build -t processor .`
# Your own image builds on it: your handlers, topics/ and schemas/ go into its working folder /app.
# Pin the base in production: --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# Every file is checked against the locks' hashes; nothing is resolved here. pip compiles what it
# installs, as a read-only root could not later.
RUN python -m venv --without-pip /opt/build \
 && python -m pip --python /opt/build/bin/python install --no-deps --require-hashes -r requirements-build.lock \
 && python -m venv --without-pip /opt/processor \
 && python -m pip --python /opt/processor/bin/python install --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY processor ./processor
COPY schemas ./schemas
COPY topics ./topics
RUN python -m pip --python /opt/build/bin/python wheel --no-deps --no-build-isolation --wheel-dir /src/dist . \
 && python -m pip --python /opt/processor/bin/python install --no-deps --no-index --find-links /src/dist processor

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/processor/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/processor /opt/processor
WORKDIR /app
# A number, so that Kubernetes can see that it is not root's; /tmp alone need be writable.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["processor"]
