# Bifrost as an image. docs/docker.md says how it is built and run.
#
#   BASE_IMAGE  a Linux with glibc and Python 3.11 or 3.12 as `python3`, with its module venv
#   EXTRAS      all, or edge: sources and the targets of a lakehouse, without browser pages and simulator

ARG BASE_IMAGE=python:3.12-slim

# --- wheels: what the lock names, checked by hash, and Bifrost itself
FROM ${BASE_IMAGE} AS wheels
ARG EXTRAS=all
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CACHE_DIR=/cache/pip
WORKDIR /source
COPY deploy/build.lock deploy/${EXTRAS}.lock deploy/bifrost.service deploy/
RUN python3 -m venv /build \
 && /build/bin/pip install --quiet --require-hashes -r deploy/build.lock \
 && /build/bin/pip wheel --quiet --no-deps --require-hashes -r deploy/${EXTRAS}.lock -w /wheels
COPY pyproject.toml README.md LICENSE ./
COPY bifrost bifrost
COPY flows flows
COPY connectors connectors
COPY delivery delivery
COPY discovery discovery
COPY normalization normalization
COPY config config
COPY simulator simulator
COPY web web
# the pages are built by `make ui` outside: an image of Node is not needed for what is the same everywhere
RUN if [ "${EXTRAS}" = edge ]; then rm -rf web/static; else test -f web/static/index.html; fi \
 && mkdir /own \
 && /build/bin/pip wheel --quiet --no-deps --no-build-isolation . -w /own

# --- installed: the virtual environment as it will be, from those wheels alone
FROM ${BASE_IMAGE} AS installed
ARG EXTRAS=all
COPY --from=wheels /wheels /wheels
COPY --from=wheels /own /own
COPY deploy/${EXTRAS}.lock deploy/slim.py deploy/imports.py deploy/sbom.py /deploy/
# nothing is compiled until `imports` has imported what a gateway can load: the root file system is never written, so that what is
# not compiled here is compiled at every start, and the rest of the packages is half of what could be
RUN python3 -m venv /opt/bifrost \
 && /opt/bifrost/bin/pip install --quiet --no-compile --no-index --find-links /wheels --no-deps --require-hashes -r /deploy/${EXTRAS}.lock \
 && /opt/bifrost/bin/pip install --quiet --no-compile --no-index --no-deps /own/*.whl \
 && /opt/bifrost/bin/pip uninstall --quiet --yes setuptools pip \
 && /opt/bifrost/bin/python3 /deploy/slim.py /opt/bifrost \
 && /opt/bifrost/bin/python3 -I /deploy/imports.py $(test "${EXTRAS}" = all || echo --some) /opt/bifrost/lib/python3*/site-packages \
 && /opt/bifrost/bin/python3 /deploy/sbom.py --lock /deploy/${EXTRAS}.lock > /opt/bifrost/sbom.cdx.json

# --- the image
FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Bifrost" \
      org.opencontainers.image.description="Industrial gateway: OPC UA, MQTT, Sparkplug B and Modbus into lakehouses and clouds, without losing a reading" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=installed /opt/bifrost /opt/bifrost
RUN mkdir -p -m 700 /data && chown 1000:1000 /data && mkdir -p /etc/bifrost
# no user is added: 1000 needs no name, and the root file system is never written
ENV PATH=/opt/bifrost/bin:$PATH HOME=/data BIFROST_CONFIG=/etc/bifrost/gateway.yaml PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python3", "-I", "-m", "bifrost.alive"]
# one process, PID 1: it takes SIGTERM itself and drains
ENTRYPOINT ["bifrost"]
CMD ["run"]
